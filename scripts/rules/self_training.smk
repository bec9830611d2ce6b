# Rounds of self-training: all of them in one run, its final ensemble as a system, and each round against the truth.


rule self_train:
    input:
        data_list=PIPELINE.scans("segmentation"),
        translated=lambda wildcards: [
            PIPELINE.images(source) for source in SELF_TRAININGS[wildcards.self_training]["translated"]
        ],
        teachers=lambda wildcards: [
            mark for system in PIPELINE.teachers(wildcards.self_training).values() for mark in trainings(system)
        ],
        run=PIPELINE_RUN,
    output: RUN / "self_training" / "{self_training}" / "ensemble.json",
    params:
        command=lambda wildcards: bundle(
            "self-training", *SELF_TRAININGS[wildcards.self_training].get("overlays", []), config_file="train",
            **{"seed": SEED, **TRACKING, "run_name": f"self-training {wildcards.self_training}"}
            | PIPELINE.self_training_options(wildcards.self_training),
        ),
    resources: gpu=GPU,
    log: RUN / "logs" / "self_train_{self_training}.log",
    benchmark: RUN / "logs" / "self_train_{self_training}.tsv"
    shell: "CROSSMODA_PARENT_RUN_ID=$(cat {input.run:q}) {params.command} 2>&1 | tee {log:q}"


rule predict_self_training:
    input:
        ORACLE or DATA,
        rules.self_train.output,
        lambda wildcards: compared_with(wildcards.self_training),
    output: touch(RUN / "self_training" / "{self_training}" / "predictions" / "predicted"),
    params:
        command=lambda wildcards: inference(
            wildcards.self_training, data_list=ORACLE or DATA, section="target_validation",
            output_dir=PIPELINE.predictions(wildcards.self_training),
        ),
    resources: gpu=GPU,
    log: RUN / "logs" / "predict_self_training_{self_training}.log",
    benchmark: RUN / "logs" / "predict_self_training_{self_training}.tsv"
    shell: "{params.command} 2>&1 | tee {log:q}"


if ORACLE:

    rule judge_self_training:
        input: ORACLE, rules.predict_self_training.output,
        output: RUN / "self_training" / "{self_training}" / "predictions" / "metrics.csv",
        params: parts=lambda wildcards: "--parts" if PIPELINE.divides_tumour(wildcards.self_training) else ""
        log: RUN / "logs" / "judge_self_training_{self_training}.log",
        shell: '{sys.executable:q} {ROOT:q}/scripts/judge.py "$(dirname {output:q})" --data_list {input[0]:q} {params.parts}'
               " 2>&1 | tee {log:q}"

    rule judge_rounds:
        # On the grid that the networks are trained on; the system itself is judged on the scans' own.
        input:
            truth=PIPELINE.true_scans(),
            ensemble=rules.self_train.output,
            bounds=[result(name) for name in bounds()],
        output: RUN / "self_training" / "{self_training}" / "evaluation" / "rounds.json",
        params:
            command=lambda wildcards: bundle(
                "self-training", config_file="evaluate", rounds_dir=PIPELINE.folder(wildcards.self_training),
                data_list=PIPELINE.true_scans(), output_dir=PIPELINE.rounds(wildcards.self_training).parent,
                **({"bounds": [str(result(name)) for name in bounds()]} if bounds() else {}),
                **PIPELINE.rounds_options(wildcards.self_training),
            ),
        resources: gpu=GPU,
        log: RUN / "logs" / "judge_rounds_{self_training}.log",
        benchmark: RUN / "logs" / "judge_rounds_{self_training}.tsv"
        shell: "{params.command} 2>&1 | tee {log:q}"
