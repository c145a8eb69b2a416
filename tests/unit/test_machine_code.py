"""benchmarks/cuda_machine_code.py reads disassemblies."""

from __future__ import annotations

import pytest

from benchmarks.cuda_machine_code import inner_loop, loops

LOADS = "".join(f"        /*{0x100 + 16 * i:04x}*/ @P1 LDG.E.128 R{4 * i}, desc[UR6][R2.64] ;\n" for i in range(8))
LISTING = f"""
.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/              @!P0 LDG.E R9, desc[UR6][R4.64] ;
.L_x_0:
{LOADS}        /*0200*/                   FFMA R8, R9, R10, R11 ;
        /*0210*/               @P1 BRA `(.L_x_0) ;
        /*0220*/               @P2 BRA `(.L_x_1) ;
        /*0230*/                   BRA `(.L_x_9) ;
"""


def test_loops_are_backward_branches_without_predicates():
    inner, outer = loops(LISTING)
    assert len(inner) == 10
    assert inner[0].startswith("LDG.E.128")
    assert len(outer) == 12


def test_the_inner_loop_is_the_smallest_that_reads_the_rows():
    assert inner_loop(LISTING)[-1].startswith("BRA `(.L_x_0)")


def test_another_structure_is_an_error():
    with pytest.raises(SystemExit, match="kInFlight"):
        inner_loop(LISTING.replace("LDG.E.128 R0", "LDG.E R0"))
