"""What is read from compiled programs, here from short texts."""

import pytest

from llie_jax.training import chips, hlo

COLLECTIVES = """
HloModule jit_step, entry_computation_layout={(f32[8]{0})->f32[8]{0}}
%body (p: f32[5]) -> f32[5] {
  %ar.5 = f32[5]{0} all-reduce(%p), to_apply=%add
}
ENTRY %main (a: f32[8]) -> pred[3] {
  %all-reduce.347 = (f32[1,1,64,2]{3,2,1,0:T(8,128)}, f32[]{:T(128)}, /*index=2*/bf16[3,4]{1,0:T(8,128)(2,1)S(1)}) all-reduce(%a, %b, %c), channel_id=1, to_apply=%add
  %ar-start = f32[10]{0} all-reduce-start(%x), channel_id=2
  %add.1 = f32[8]{0} add(%x, %x), backend_config={"window_config":{"estimated_cycles":"70"}}
  %ar-done = f32[10]{0} all-reduce-done(%ar-start)
  %add.2 = f32[8]{0} add(%x, %x), backend_config={"window_config":{"estimated_cycles":"30"}}
  %all-gather-start.1 = (f32[2,3]{1,0}, f32[8,3]{1,0}) all-gather-start(%z), dimensions={0}
  %ag2 = ((f32[2]{0}, s8[4]{0}), (f32[8]{0}, s8[16]{0})) all-gather-start(%z, %w)
  %all-gather-done.1 = f32[8,3]{1,0} all-gather-done(%all-gather-start.1)
  %cp = (u8[7]{0}, u8[7]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%v)
  %fusion.3 = f32[100]{0} fusion(%all-reduce.347), calls=%all-reduce.clone
  %w.1 = f32[5]{0} while(%fusion.3), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"6"}}
  ROOT %all-reduce.9 = pred[3]{0} all-reduce(%y), to_apply=%or
}
"""  # noqa: E501

TILED = """
ENTRY %main (p: f32[2,16,128,32]) -> f32[8] {
  %p = f32[2,16,128,32]{3,2,1,0:T(8,128)} parameter(0)
  %near = f32[2,16,128,32]{3,2,1,0:T(8,128)S(1)} copy(%p), backend_config={"estimated_cycles":"5"}
  %turn = f32[2,16,128,32]{2,3,1,0:T(8,128)} copy(%near), backend_config={"estimated_cycles":"40"}
  %wide = bf16[2,16,128,192]{3,2,1,0:T(8,128)(2,1)} fusion(%turn), metadata={op_name="jit(step)/shard_map/transpose(jvp(Net))/Net.encode/level_1/block_12/conv/dot"}, backend_config={"estimated_cycles":"50"}
  %out = f32[8]{0:T(128)} fusion(%wide), metadata={op_name="jit(step)/adam/mul"}, backend_config={"estimated_cycles":"5"}
}
"""  # noqa: E501


def test_collectives_are_counted_with_their_element_types_and_loops():
    found = hlo.Program(COLLECTIVES).collectives()
    once = 4 * (128 + 1) + 2 * 12 + 4 * 10 + 3
    assert found == {
        "all-reduce": {"count": 3 + 6, "bytes": once + 6 * 4 * 5},
        "all-gather": {"count": 2, "bytes": 4 * 24 + 4 * 8 + 16},
        "collective-permute": {"count": 1, "bytes": 7},
    }
    assert hlo.Program("ENTRY %m (a: f32[2]) -> f32[2] {\n}").collectives() == {}


def test_what_runs_beside_an_all_reduce():
    found = hlo.Program(COLLECTIVES).overlap()
    assert found["beside"] == 40
    assert found["cycles"] == 70


def test_layout_changes_are_not_moves_between_memories():
    found = hlo.Program(TILED).layout_changes()
    assert found == {"count": 1, "bytes": 4 * 2 * 16 * 128 * 32, "cycles": 40}


def test_padding_of_tiles():
    share, lanes = hlo.Program(TILED).padding()
    pixels = 2 * 16 * 128
    values = 4 * 2 * pixels * 32 + 2 * pixels * 192 + 4 * 8
    padded = 4 * pixels * 128 + 4 * pixels * 32 + 2 * pixels * 256 + 4 * 128
    assert share == pytest.approx(1 - values / padded)
    assert lanes[0] == hlo.Lanes(32, 128, True, 4 * pixels * 96)
    assert lanes[1] == hlo.Lanes(192, 256, True, 2 * pixels * 64)
    # Channels of 6 times the width 32: the next width with whole registers is 64.
    assert hlo.fitting_width(32, lanes[1]) == 64
    assert hlo.fitting_width(32, lanes[0]) == 128


INSIDE = ("level_1", "level_1/block_12", "level_1/block_12/conv")


def within(*containers):
    """Returns containers, and paths of the same modules in each."""
    return [*containers, *(f"{each}/{path}" for each in containers for path in INSIDE)]


@pytest.mark.parametrize(
    ("modules", "found"),
    [
        (INSIDE, "level_*/block_*/conv"),
        (INSIDE[:2], "level_*/block_*"),
        # A module that is not called itself does not show in the program.
        (within("colour"), "colour/level_*/block_*/conv"),
        (within("colour", "brightness"), "*/level_*/block_*/conv"),
        (within("stage_0", "stage_1"), "stage_*/level_*/block_*/conv"),
        (["outer", *within("outer/inner")], ""),
        ([*INSIDE, "level_1/block_12/branch/conv"], "level_*/block_*/conv"),
        # The last part of a path is an operation, even if a module has its name.
        ([*INSIDE, "level_1/block_12/conv/dot", "mul"], "level_*/block_*/conv"),
    ],
)
def test_costs_count_for_the_innermost_module(modules, found):
    costs = dict(hlo.Program(TILED).costs(modules))
    assert costs == ({found: 0.5, "": 0.5} if found else {"": 1.0})


def test_a_chip_is_found_by_the_start_of_its_kind():
    assert chips.find("TPU v5 lite").flops == 197e12
    assert chips.find("TPU v5").flops == 459e12
    assert chips.find("NVIDIA H100 80GB HBM3").flops == 989e12
    assert chips.find("NVIDIA A100-SXM4-40GB").flops == 312e12
    assert chips.find("NVIDIA L4").flops == 121e12
    assert chips.find("NVIDIA L40S") is chips.find("NVIDIA L40") is None
    assert chips.find("cpu") is None


def test_projected_efficiency():
    chip = chips.Chip(flops=1e12, memory=1e9, links=2e6)
    found = chips.project(chip, chips=4, flops=1e10, traffic=1e9, reduced=1e6)
    assert found.compute_seconds == 1.0  # memory takes longer than arithmetic
    assert found.reduce_seconds == pytest.approx(1.5)
    assert found.efficiency == pytest.approx(1 / 2.5)
    alone = chips.project(chip, chips=1, flops=1e10, traffic=1e9, reduced=1e6)
    assert alone.efficiency == 1.0
