# Scans prepared as a paper does; on by `preparation` in a recipe. Killed, prepare.py goes on where it was.
PREPARE = "{sys.executable:q} {ROOT:q}/scripts/prepare.py {params.how} --datalist {input.data_list:q} --jobs {threads}"


rule prepare:
    input: data_list=DATA,
    output: PIPELINE.prepared / "datalist.json",
    params:
        how=shlex.join(
            ["--recipe", config["preparation"]["recipe"]]
            + [f"--set={name}={json.dumps(value)}" for name, value in config["preparation"]["settings"].items()]
        ),
    threads: CORES
    log: RUN / "logs" / "prepare.log",
    benchmark: RUN / "logs" / "prepare.tsv"
    shell: PREPARE + " --output_dir {PIPELINE.prepared:q} 2>&1 | tee {log:q}"


if ORACLE and PIPELINE.is_prepared("segmentation"):

    rule prepare_truth:
        # What the oracle is trained on, and rounds of self-training are judged on, in the same way as the rest.
        input:
            data_list=ORACLE,
            like=rules.prepare.output,
        output: PIPELINE.true_scans(),
        params: how=lambda wildcards: shlex.join(["--like", str(PIPELINE.prepared)]),
        threads: CORES
        log: RUN / "logs" / "prepare_truth.log",
        benchmark: RUN / "logs" / "prepare_truth.tsv"
        shell: PREPARE + ' --output_dir "$(dirname {output:q})" 2>&1 | tee {log:q}'
