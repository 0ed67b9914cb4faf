"""The method: concepts, prompts, layers, where x_t comes from, the loss, the edit. Begin with erasure.py and trajectories.py.

`esd.erase` does it all (erase.py). Its pieces serve on their own, too, without a trainer, on any supported pipeline:

    import torch
    from esd import models
    from esd.erasing.concepts import Concept, Draws
    from esd.erasing.erasure import erasure_loss, erasure_target
    from esd.erasing.layers import select_parameters, shipped_rule, student_of
    from esd.erasing.prompts import PromptTable
    from esd.erasing.trajectories import Denoisers, Pool
    from esd.erasing.walks import predict

    model, prompts = models.from_pipeline(pipe, "mine"), [Concept("a pizza")]      # pipe: a loaded diffusers pipeline
    student = student_of(model.denoiser, select_parameters(model.denoiser, shipped_rule("esd-x")))
    table, sampler = PromptTable(model, prompts, ["{}"]), model.sampler(50)
    source = Pool(walker="frozen").begin(Denoisers(model, sampler, table, 3.0, model.denoiser, student))
    draw = Draws(concepts=1, templates=1, positions=50, batch=4, seed=0, staggered=source.staggered).at(0)
    with torch.no_grad():
        x_t, eps_c, eps_null, eps_f = source.examples(draw)
        target = erasure_target(eps_f, eps_c, eps_null, eta=1.0)
    asked = table.condition(table.rows(table.student_prompt, draw))
    (eps,) = predict(model, student, sampler, x_t, draw.position, asked)
    erasure_loss(eps, target).mean().backward()
"""
