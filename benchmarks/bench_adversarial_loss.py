"""The discriminator's and the generator's loss with their gradients, against the same formulas in stock torch."""

from _harness import entry_points

from sdgan_ext.bench.cases import discriminator_loss_case, generator_loss_case

MANY = 2**22
CASES = [discriminator_loss_case((n, 1), quick=True, budget=10.0) for n in (64, 512, MANY)]
CASES += [discriminator_loss_case((n, 1), kind, budget=10.0) for kind in ("hinge", "relativistic") for n in (64, MANY)]
CASES += [discriminator_loss_case((n, 1), dtype="bfloat16", budget=10.0) for n in (64, MANY)]
CASES += [generator_loss_case((n, 1), quick=n == 64, budget=10.0) for n in (64, MANY)]

test_speed, main = entry_points("bench_adversarial_loss", CASES)

if __name__ == "__main__":
    main()
