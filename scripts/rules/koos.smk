# Koos grades: Han 2022's classifier on a translator's frozen encoder (and variants of it), the geometric baseline, and
# both together, on the validation scans with predicted masks.
#
#   koos:
#     encoder: msf_net            translator whose encoder is frozen, and whose volumes are the second modality
#     masks: structures           system, self-training or fusion whose label maps are the masks
#     overlays: [phantom]         of the bundle koos-classifier, after a network's own
#     folds: 5
#     seeds: [0, 1, 2]            default: the recipe's; a network may name its own
#     networks:                   default: Han's alone
#       full: {overlays: []}
#       not_frozen: {overlays: [methods/not_frozen], pretrained_by: full}     fine-tunes another's pre-trained networks
#       no_pretraining: {overlays: [methods/no_pretraining], pretrained_by: null}
#     geometry: {}                overrides of geometry_train.yaml; left out: no baseline
#     combination: full           network that is combined with the baseline
#     final: geometry             whose grades count, in case reports and for new scans; default: the combination, or the
#                                 first network

KOOS, KOOS_NETWORKS, KOOS_FOLDS = PIPELINE.koos, PIPELINE.koos_networks, PIPELINE.koos_folds()
koos_seeds, koos_overlays = PIPELINE.koos_seeds, PIPELINE.koos_overlays
KOOS_METHODS = PIPELINE.koos_methods
KOOS_DIR = RUN / "koos"
KOOS_SOURCE = PIPELINE.scans("translation")
KOOS_PAIRS = RUN / "translation" / KOOS["encoder"] / "volumes" / "datalist.json"
KOOS_OPTIONS = {"data_list": KOOS_SOURCE, "translations": KOOS_PAIRS}
KOOS_ENCODER = PIPELINE.translator_model(KOOS["encoder"]) / "model.pt"


def koos_fold(wildcards, network=None):
    """The folder of a fold's training, of another network if it is given."""
    return PIPELINE.koos_folder(network or wildcards.network, wildcards.seed) / f"fold{wildcards.fold}"


def pretrained(wildcards):
    """The fold's folder whose pre-trained network is fine-tuned; None if there is none."""
    network = KOOS_NETWORKS[wildcards.network].get("pretrained_by", wildcards.network)
    return network and koos_fold(wildcards, network)


def koos_start(wildcards):
    """What fine-tuning starts from: the fold's pre-trained network, or the translator's encoder alone."""
    folder = pretrained(wildcards)
    return {"initial_weights": folder / "pretrain" / "model.pt"} if folder else {"translator": KOOS_ENCODER}


wildcard_constraints:
    network="|".join(KOOS_NETWORKS),
    method="|".join(KOOS_METHODS),
    seed=r"\d+",


rule koos_pretrain:
    input:
        KOOS_SOURCE,
        KOOS_PAIRS,
        run=PIPELINE_RUN,
    output: touch(KOOS_DIR / "{network}" / "seed{seed}" / "fold{fold}" / "pretrained"),
    params:
        command=lambda wildcards: bundle(
            "koos-classifier", *koos_overlays(wildcards.network), config_file="pretrain", **KOOS_OPTIONS,
            track=f"koos pretrain {wildcards.network} seed {wildcards.seed} fold {wildcards.fold}",
            translator=KOOS_ENCODER, fold=wildcards.fold, num_folds=len(KOOS_FOLDS), seed=wildcards.seed,
            output_dir=koos_fold(wildcards) / "pretrain", ckpt_dir=koos_fold(wildcards) / "pretrain",
            views_dir=KOOS_DIR / "views",
        ),
    resources: gpu=GPU,
    log: RUN / "logs" / "koos_pretrain_{network}_{seed}_{fold}.log",
    benchmark: RUN / "logs" / "koos_pretrain_{network}_{seed}_{fold}.tsv"
    shell: "CROSSMODA_PARENT_RUN_ID=$(cat {input.run:q}) {params.command} 2>&1 | tee {log:q}"


rule koos_finetune:
    input:
        KOOS_SOURCE,
        KOOS_PAIRS,
        lambda wildcards: [folder / "pretrained" for folder in [pretrained(wildcards)] if folder],
        run=PIPELINE_RUN,
    output: touch(KOOS_DIR / "{network}" / "seed{seed}" / "fold{fold}" / "trained"),
    params:
        command=lambda wildcards: bundle(
            "koos-classifier", *koos_overlays(wildcards.network), config_file="finetune", **KOOS_OPTIONS,
            track=f"koos finetune {wildcards.network} seed {wildcards.seed} fold {wildcards.fold}",
            **koos_start(wildcards), fold=wildcards.fold, num_folds=len(KOOS_FOLDS), seed=wildcards.seed,
            output_dir=koos_fold(wildcards), ckpt_dir=koos_fold(wildcards) / "model", views_dir=KOOS_DIR / "views",
        ),
    resources: gpu=GPU,
    log: RUN / "logs" / "koos_finetune_{network}_{seed}_{fold}.log",
    benchmark: RUN / "logs" / "koos_finetune_{network}_{seed}_{fold}.tsv"
    shell: "CROSSMODA_PARENT_RUN_ID=$(cat {input.run:q}) {params.command} 2>&1 | tee {log:q}"


rule koos_grade:
    # hrT2 alone, the mean of the folds (Han 2022).
    input:
        DATA,
        result(KOOS["masks"]),
        trained=lambda wildcards: [
            folder / "trained" for folder in PIPELINE.koos_fold_folders(wildcards.network, wildcards.seed)
        ],
    output: KOOS_DIR / "{network}" / "seed{seed}" / "grades.csv",
    params:
        command=lambda wildcards: bundle(
            "koos-classifier", *koos_overlays(wildcards.network), config_file="inference", data_list=DATA,
            section="target_validation", masks=PIPELINE.predictions(KOOS["masks"]),
            output_dir=PIPELINE.koos_folder(wildcards.network, wildcards.seed),
            ckpt_paths=PIPELINE.koos_weights(wildcards.network, wildcards.seed),
        ),
    resources: gpu=GPU,
    log: RUN / "logs" / "koos_grade_{network}_{seed}.log",
    benchmark: RUN / "logs" / "koos_grade_{network}_{seed}.tsv"
    shell: "{params.command} 2>&1 | tee {log:q}"


if "geometry" in KOOS:

    rule koos_geometry_train:
        input: KOOS_SOURCE,
        output: KOOS_DIR / "geometry" / "seed{seed}" / "model" / "geometry.json",
        params:
            command=lambda wildcards: bundle(
                "koos-classifier", config_file="geometry_train", data_list=KOOS_SOURCE, seed=wildcards.seed,
                num_folds=len(KOOS_FOLDS), output_dir=PIPELINE.koos_folder("geometry", wildcards.seed) / "model",
                **KOOS["geometry"],
            ),
        log: RUN / "logs" / "koos_geometry_train_{seed}.log",
        shell: "{params.command} 2>&1 | tee {log:q}"

    rule koos_geometry:
        input:
            DATA,
            result(KOOS["masks"]),
            model=KOOS_DIR / "geometry" / "seed{seed}" / "model" / "geometry.json",
        output: KOOS_DIR / "geometry" / "seed{seed}" / "grades.csv",
        params:
            command=lambda wildcards: bundle(
                "koos-classifier", config_file="geometry", data_list=DATA, section="target_validation",
                masks=PIPELINE.predictions(KOOS["masks"]),
                geometry_dir=PIPELINE.koos_folder("geometry", wildcards.seed) / "model",
                output_dir=PIPELINE.koos_folder("geometry", wildcards.seed),
            ),
        log: RUN / "logs" / "koos_geometry_{seed}.log",
        shell: "{params.command} 2>&1 | tee {log:q}"


if "combination" in KOOS:

    rule koos_combine:
        input:
            network=KOOS_DIR / KOOS["combination"] / "seed{seed}" / "grades.csv",
            geometry=KOOS_DIR / "geometry" / "seed{seed}" / "grades.csv",
        output: KOOS_DIR / "combination" / "seed{seed}" / "grades.csv",
        params:
            command=lambda wildcards: bundle(
                "koos-classifier", config_file="combine",
                network=PIPELINE.koos_folder(KOOS["combination"], wildcards.seed) / "grades.csv",
                geometry=PIPELINE.koos_folder("geometry", wildcards.seed) / "grades.csv",
                output_dir=PIPELINE.koos_folder("combination", wildcards.seed),
            ),
        log: RUN / "logs" / "koos_combine_{seed}.log",
        shell: "{params.command} 2>&1 | tee {log:q}"


if ORACLE:

    rule koos_judge:
        input: ORACLE, KOOS_DIR / "{method}" / "seed{seed}" / "grades.csv",
        output: KOOS_DIR / "{method}" / "seed{seed}" / "judged" / "metrics.json",
        params:
            command=lambda wildcards: bundle(
                "koos-classifier", config_file="evaluate", data_list=ORACLE, section="target_validation",
                grades=PIPELINE.koos_folder(wildcards.method, wildcards.seed) / "grades.csv",
                output_dir=PIPELINE.koos_folder(wildcards.method, wildcards.seed) / "judged",
            ),
        log: RUN / "logs" / "koos_judge_{method}_{seed}.log",
        shell: "{params.command} 2>&1 | tee {log:q}"

    rule koos:
        # All methods side by side, mean over the seeds.
        input: [KOOS_DIR / name / f"seed{seed}" / "judged" / "metrics.json" for name in KOOS_METHODS for seed in koos_seeds(name)],
        output: KOOS_DIR / "table.md",
        params:
            methods=shlex.join(
                f"--method={method}={','.join(f'{KOOS_DIR}/{method}/seed{seed}/judged' for seed in koos_seeds(method))}"
                for method in KOOS_METHODS
            ),
        log: RUN / "logs" / "koos.log",
        shell: "{sys.executable:q} {ROOT:q}/scripts/tabulate_grades.py {params.methods} --output {output:q} 2>&1 | tee {log:q}"

else:

    rule koos:
        input: [KOOS_DIR / name / f"seed{seed}" / "grades.csv" for name in KOOS_METHODS for seed in koos_seeds(name)],
        output: touch(KOOS_DIR / "graded"),


FURTHER += rules.koos.output
