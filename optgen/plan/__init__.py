"""Program -> Plan: which kernels a step runs, what each reads and writes, and how many bytes that is."""

from optgen.plan.nodes import Buffer, Kernel, Layout, Plan
from optgen.plan.planner import make_plan

__all__ = ["Buffer", "Kernel", "Layout", "Plan", "make_plan"]
