"""The intermediate representation: expression and statement nodes, the table of operations, text in and text out."""
