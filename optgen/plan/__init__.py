"""Program -> Plan: which kernels a step runs, what each reads and writes, and how many bytes that is."""

from optgen.plan.nodes import Buffer, Kernel, Layout, Plan, RulePlan
from optgen.plan.planner import make_plan

__all__ = ["Buffer", "Kernel", "Layout", "Plan", "RulePlan", "make_plan"]
