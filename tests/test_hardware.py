"""The share of a GPU's peak that a run uses."""

import pytest

from data.run.hardware import peak_flops, utilisation


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.4),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA L40S", 362),
    ],
)
def test_the_cards_of_the_table_are_known_by_cudas_names(name, tera):
    assert peak_flops(name) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize(
    "name",
    ["cpu", "NVIDIA RTX 6000 Ada Generation", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA L40",
     "NVIDIA A10", "NVIDIA GH200 480GB", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"],
)  # fmt: skip
def test_other_cards_are_unknown(name):
    assert peak_flops(name) is None


def test_utilisation_is_of_all_gpus_together():
    assert utilisation(989.4e12, 2.0, ["NVIDIA H100 80GB HBM3"]) == pytest.approx(0.5)
    assert utilisation(989.4e12, 2.0, ["NVIDIA H100 80GB HBM3"] * 2) == pytest.approx(0.25)
    assert utilisation(1e12, 1.0, ["NVIDIA H100 80GB HBM3", "other"]) is None
    assert utilisation(0.0, 0.0, ["NVIDIA H100 80GB HBM3"]) is None
