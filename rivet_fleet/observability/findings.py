"""What is told about a run besides its numbers: changed values, drift, gates. Pure."""

from __future__ import annotations

from rivet_fleet.contracts.plan import TOLD_BY_RUNS
from rivet_fleet.contracts.proof import ProofOutcome
from rivet_fleet.contracts.quality import GateCode, GateOutcome, GateVerdict
from rivet_fleet.contracts.state import RunView
from rivet_fleet.observability.units import counted


def finding_lines(run: RunView) -> tuple[str, ...]:
    """One line per finding, each beginning with what it is about; nothing for a quiet run."""
    lines = []
    if run.skipped:
        lines.append("skipped   no rows: nothing was written (skip_empty)")
    if run.changed_values:
        lines.append(
            f"changed   {counted(run.changed_values, 'value')} by on_unrepresentable: "
            f"{run.plan.read.on_unrepresentable}"
        )
    lines += [
        f"mark      {one.message} [{one.rule}]"
        for one in run.plan.diagnostics
        if one.rule in TOLD_BY_RUNS
    ]
    lines += [f"schema    {one.sentence} [{one.code.value}]" for one in run.plan.schema_changes]
    if run.findings is not None:
        proof = run.findings.proof
        if proof is not None and proof.outcome is not ProofOutcome.DIFFERS:
            lines.append(f"proof     {proof.outcome.value}: {proof.sentence}")
        lines += [
            f"{_about(gate)} {gate.outcome.value}: {gate.sentence} [{gate.code.value}]"
            for gate in run.findings.gates
            if gate.outcome is not GateOutcome.PASSED
        ]
        passed = sum(gate.outcome is GateOutcome.PASSED for gate in run.findings.gates)
        lines += [f"quality   {counted(passed, 'gate')} passed"] if passed else []
        if run.findings.acceptance is not None:
            lines.append(f"quality   {run.findings.acceptance.sentence}")
        lines += [f"shape     {one.sentence} [{one.code.value}]" for one in run.findings.shape]
    return tuple(lines)


def _about(gate: GateVerdict) -> str:
    return "proof    " if gate.code is GateCode.PROOF_COUNT else "quality  "
