"""Which old modules each new module is made of."""

MOVES = {
    # datamodules
    "datamodules.emotion": ["datamodules.emotion", "datamodules.loading"],
    "datamodules.face_boxes": [
        "datamodules.faces.boxes_data", "datamodules.faces.boxes_augment"],
    "datamodules.manifest": [
        "datamodules.manifest", "datamodules.manifest_checks", "datamodules.face_boxes", "datamodules.faces.boxes_table"],
    "datamodules.paths": ["datamodules.places"],
    "datamodules.images": ["datamodules.pixels"],
    "datamodules.dataset": ["datamodules.dataset", "datamodules.pictures"],
    "datamodules.cache": ["datamodules.cache", "datamodules.cache_shelf"],
    "datamodules.sampling": ["datamodules.oversampling", "datamodules.batches"],
    "datamodules.audit": ["datamodules.audit", "datamodules.audit_sheet", "datamodules.cleaning"],
    "datamodules.describe": ["datamodules.describe", "datamodules.chart"],
    "datamodules.splits.folds": ["datamodules.folds", "datamodules.stratification"],
    "datamodules.splits.protocol": ["datamodules.division", "datamodules.group_plan"],
    "datamodules.splits.subgroups": ["datamodules.groups"],
    "datamodules.readers.base": ["datamodules.readers.common"],
    "datamodules.readers.table": ["datamodules.readers.csv_table", "datamodules.readers.votes"],
    "datamodules.readers.names": ["datamodules.readers.named", "datamodules.readers.pattern"],
    "datamodules.readers.aihub": [
        "datamodules.readers.aihub", "datamodules.readers.aihub_boxes", "datamodules.readers.aihub_records"],
    "datamodules.readers.subsets": [
        "datamodules.readers.part", "datamodules.readers.even", "datamodules.readers.joined"],
    "datamodules.readers.archives": ["datamodules.readers.unpack"],
    "datamodules.readers.face_crops": ["datamodules.face_crops", "datamodules.readers.crops"],
    "datamodules.faces.detectors": [
        "datamodules.faces.detector", "datamodules.faces.haar", "datamodules.faces.yunet", "datamodules.faces.own_onnx"],
    "datamodules.faces.crop": [
        "datamodules.faces.cut", "datamodules.faces.choose", "datamodules.faces.upright", "datamodules.faces.work"],
    "datamodules.faces.prepare": [
        "datamodules.faces.prepare", "datamodules.faces.journal", "datamodules.faces.tables",
        "datamodules.faces.boxes_crops"],
    
    "datamodules.synthetic": ["datamodules.drawn_faces"],
    "datamodules.synthetic.action_units": [
        "datamodules.drawn_faces.expressions", "datamodules.drawn_faces.spec"],
    "datamodules.synthetic.geometry": ["datamodules.drawn_faces.geometry"],
    "datamodules.synthetic.painting": [
        "datamodules.drawn_faces.painting", "datamodules.drawn_faces.brushes", "datamodules.drawn_faces.hair"],
    "datamodules.synthetic.people": ["datamodules.drawn_faces.people"],
    "datamodules.synthetic.faces": ["datamodules.drawn_faces.drawing"],
    "datamodules.synthetic.scenes": [
        "datamodules.drawn_faces.scenes", "datamodules.drawn_faces.scene_parts", "datamodules.drawn_faces.scenery",
        "datamodules.drawn_faces.korean"],
    "datamodules.synthetic.files": ["datamodules.drawn_faces.files", "datamodules.faces.scene_files"],
    # results
    "results": ["records"],
    "results.tracking.store": ["records.store"],
    "results.tracking.ui": ["records.ui"],
    "results.tracking.disk": ["records.disk"],
    "results.tracking.logger": ["records.tracking", "records.open_run", "records.heartbeat"],
    "results.tracking.offline": ["records.spool", "records.sending"],
    "results.tracking.runs": ["records.runs"],
    "results.tracking.environment": ["records.environment", "records.system", "records.origin"],
    "results.tracking.export_import": ["records.exchange", "records.portrait", "records.taking_in"],
    "results.tracking.dvc": ["records.exchange_dvc"],
    "results.predictions": ["records.predictions", "records.matching"],
    "results.statistics": ["records.statistics"],
    "results.significance": ["records.significance"],
    "results.compare": ["records.comparison"],
    "results.certify.certificate": ["records.certificate"],
    "results.certify.run_artifacts": ["records.evidence"],
    "results.certify.checks": ["records.verdicts", "records.membership", "records.recomputed", "records.provenance"],
    "results.bias": ["records.bias"],
    "results.bias.groups": ["records.bias.groups", "records.bias.columns", "records.bias.cuts"],
    "results.bias.gaps": ["records.bias.gaps", "records.bias.units"],
    "results.bias.training_data": ["records.bias.composition", "records.bias.shared_classes"],
    "results.bias.report": [
        "records.bias.report", "records.bias.pages", "records.bias.words", "records.bias.figure", "records.bias.runs"],
    "results.reports.pages": ["records.pages"],
    "results.reports.figures": ["records.figures", "records.lettering"],
    "results.reports.tables": ["records.tables"],
    # lightning_modules
    "lightning_modules.training": [
        "lightning_modules.training", "lightning_modules.tracked_run", "lightning_modules.evaluation",
        "lightning_modules.estimate"],
    "lightning_modules.backbones": ["lightning_modules.backbones", "lightning_modules.k_emotionnet", "lightning_modules.device"],
    "lightning_modules.losses": [
        "lightning_modules.losses", "lightning_modules.losses.base", "lightning_modules.losses.formulas",
        "lightning_modules.losses.usual", "lightning_modules.losses.long_tailed"],
    "lightning_modules.mixup": ["lightning_modules.mixing"],
    "lightning_modules.ema": ["lightning_modules.averaging"],
    "lightning_modules.callbacks": [
        "lightning_modules.callbacks", "lightning_modules.progress", "lightning_modules.stops"],
    "lightning_modules.warm_start": ["lightning_modules.beginning"],
    "lightning_modules.predictor": ["lightning_modules.predict", "lightning_modules.stored"],
    "lightning_modules.export": ["lightning_modules.export", "lightning_modules.onnx_file"],
    "lightning_modules.face_detector": ["lightning_modules.detector"],
    "lightning_modules.face_detector.network": [
        "lightning_modules.detector.module", "lightning_modules.detector.pyramid", "lightning_modules.detector.parts",
        "lightning_modules.detector.precision"],
    "lightning_modules.face_detector.losses": [
        "lightning_modules.detector.losses", "lightning_modules.detector.objective",
        "lightning_modules.detector.assignment"],
    "lightning_modules.face_detector.training": [
        "lightning_modules.detector.run", "lightning_modules.detector.tables", "lightning_modules.detector.known"],
    "lightning_modules.face_detector.export": ["lightning_modules.detector.export"],
    # sweeps
    "sweeps.cross_validation": ["sweeps.cross_validation", "sweeps.members", "sweeps.lost"],
    "sweeps.search": [
        "sweeps.search", "sweeps.search_plan", "sweeps.search_study", "sweeps.search_trial", "sweeps.winner",
        "sweeps.checks"],
    "sweeps.spaces": ["sweeps.spaces", "sweeps.space_files", "sweeps.dimensions"],
    "sweeps.workers": [
        "sweeps.queue", "sweeps.storage", "sweeps.trial", "sweeps.strategies", "sweeps.gpus"],
    "sweeps.search_report": ["sweeps.search_report", "sweeps.search_figures"],
    "sweeps.studies.schema": ["sweeps.studies.plan"],
    "sweeps.studies.runner": [
        "sweeps.studies.conduct", "sweeps.studies.preflight", "sweeps.studies.estimate"],
    "sweeps.studies.analysis": [
        "sweeps.studies.outcomes", "sweeps.studies.numbers", "sweeps.studies.claims", "sweeps.studies.by_image"],
    "sweeps.studies.report": [
        "sweeps.studies.report", "sweeps.studies.page", "sweeps.studies.pictures", "sweeps.studies.changes"],
    "sweeps.studies.frozen_features": ["sweeps.studies.frozen", "sweeps.studies.features"],
    "sweeps.studies.balanced_augmentation": [
        "sweeps.studies.balanced_augmentation", "sweeps.studies.balanced_published"],
    "sweeps.studies.data_imbalance": ["sweeps.studies.data_imbalance", "sweeps.studies.data_imbalance_published"],
    "sweeps.studies.face_detector": [
        "sweeps.studies.face_detector", "sweeps.studies.face_detector_conduct",
        "sweeps.studies.face_detector_estimate", "sweeps.studies.face_detector_report"],
    # emotion
    "emotion.explanation.select": [
        "lightning_modules.explain_choice", "lightning_modules.explain_faces", "lightning_modules.explain_folds"],
    "emotion.explanation.explainer": [
        "lightning_modules.explain_run", "lightning_modules.explain", "lightning_modules.explain_subjects",
        "records.explain.stored"],
    "emotion.explanation.methods": [
        "records.explain.methods", "records.explain.grad_cam", "records.explain.gradients",
        "records.explain.perturbation", "records.explain.explained"],
    "emotion.explanation.superpixels": ["records.explain.superpixels"],
    "emotion.explanation.faithfulness": [
        "records.explain.faithfulness", "records.explain.curves", "records.explain.measures",
        "records.explain.agreement", "records.explain.means", "records.explain.ordering", "records.explain.numbers",
        "records.explain.region_tables"],
    "emotion.explanation.regions": [
        "records.explain.regions", "records.explain.alignment"],
    "emotion.explanation.overlays": ["records.explain.overlays", "records.explain.drawings"],
    "emotion.explanation.report": [
        "records.explain.report", "records.explain.sections", "records.explain.region_sections", "records.explain.page"],
    "emotion.explanation": ["records.explain"],
}
PACKAGES = {
    "datamodules.splits": "Splits: k-fold, hold-out and given parts, and the protocol that a run follows.",
    "results.tracking": "MLflow tracking: the store, the logger, the offline queue, export and import of runs.",
    "results.certify": "Certificates: recompute what a run claims from the tables that it wrote.",
    "results.reports": "Figures, tables and pages that all reports share.",
}
RENAMES = {}
DOCS = {}
RENAMES = {
    "datamodules.faces.scene_files:_CHUNK": "_SCENE_CHUNK",
    "datamodules.readers.crops:BOXES": "GIVEN_BOXES",
    "datamodules.faces.scene_files:_FEW": "_FEW_SCENES",
    "datamodules.faces.scene_files:_standing": "_complete_scenes",
    "datamodules.readers.pattern:looks_like": "pattern_looks_like",
    "datamodules.readers.pattern:read": "read_pattern",
    "lightning_modules.explain_choice:choose": "choose_images",
    "records.origin:_git": "_git_bytes",
    "records.membership:_SCORES": "_FOLD_SCORES",
    "records.recomputed:_SCORES": "_SCORES_EQUAL",
    "records.recomputed:_INTERVALS": "_INTERVALS_EQUAL",
    "records.recomputed:_whole": "_whole_metrics",
    "records.membership:_whole": "_pooled_scores",
    "records.membership:_same": "_same_scores",
    "records.provenance:_same": "_same_value",
    "sweeps.search_worker:TASK": "TRIAL_TASK",
    "sweeps.winner:TASK": "WINNER_TASK",
    "sweeps.spaces:Options": "Drawn",
    "sweeps.studies.face_detector:Options": "DetectorStudy",
    "lightning_modules.detector.precision:Picture": "ImageMatches",
}
