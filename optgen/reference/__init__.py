"""The one oracle: runs a program as written, in float64, without any pass, plan or printer."""
