"""The headings and sentences of the page in English and Chinese, side by side. It knows no numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Say = Callable[[str], str]
"""key → words; a key without words is given back with spaces for underscores"""

_WORDS: Final[dict[str, tuple[str, str]]] = {
    # page
    "report": ("flagai report", "flagai 报告"),
    "results": ("Results", "结果"),
    "curves": ("Training", "训练过程"),
    "labels": ("Labels", "各标签表现"),
    "confusion": ("Confusion", "混淆情况"),
    "errors": ("Errors", "错误样例"),
    "data": ("Data", "数据"),
    "speed": ("Speed and memory", "速度与内存"),
    "repeat": ("Repeat this run", "复现"),
    "contents": ("Contents", "目录"),
    "none": (
        "There is nothing to show yet: the run wrote no measurements.",
        "暂无内容：本次运行没有写下任何测量结果。",
    ),
    # overview
    "headline_on": ("on {split}, {records} records", "{split}集，共 {records} 条"),
    "headline_on_split": ("on {split}", "{split}集"),
    "interval_95": ("95 % interval {interval}", "95 % 置信区间 {interval}"),
    "interval_note": (
        "Intervals are 95 % bootstrap intervals: the range in which the value stays when the records are redrawn.",
        "区间为 95 % 自助法（bootstrap）置信区间：对样本重新抽样时，数值所在的范围。",
    ),
    "baseline": ("Baseline", "基线"),
    "whisker_scale": ("The lines run from {low} to {high}.", "横线的范围为 {low} 至 {high}。"),
    "baseline_mark": ("The upright stroke is the baseline.", "竖线为基线。"),
    "metric": ("Metric", "指标"),
    "worth_knowing": ("Worth knowing", "值得注意"),
    "note_status": (
        "The run is “{status}”: what follows is the state it reached, not its end.",
        "本次运行状态为“{status}”：以下是中途状态，而非最终结果。",
    ),
    "note_zero": (
        "{count} labels are never recognised: {labels}.",
        "有 {count} 个标签从未被正确识别：{labels}。",
    ),
    "note_zero_one": ("One label is never recognised: {labels}.", "有 1 个标签从未被正确识别：{labels}。"),
    "note_small": (
        "{split} has only {records} records, so differences of a few points may be chance.",
        "{split}集仅有 {records} 条，几个百分点的差别可能只是偶然。",
    ),
    "note_baseline": (
        "The baseline ({value}) lies inside the interval: a gain over it is not shown on this many records.",
        "基线（{value}）落在置信区间之内：以这些样本尚不能说明优于基线。",
    ),
    "note_leaks": (
        "{count} evaluation records also stand in the training data; the measured values may be too good.",
        "有 {count} 条评测样本同时出现在训练数据中，测得的数值可能偏高。",
    ),
    "note_lost": (
        "{share} of the tokens lie beyond max_length and were not read.",
        "有 {share} 的词元超出 max_length，未被读取。",
    ),
    "note_cut": (
        "{count} records lose a part of their label, entity or answer to max_length.",
        "有 {count} 条样本的标签、实体或答案因 max_length 被截断。",
    ),
    # curves
    "loss": ("Loss", "损失"),
    "train_loss": ("training", "训练"),
    "train_loss_smooth": ("training, smoothed", "训练（平滑）"),
    "eval_loss": ("evaluation", "评测"),
    "eval_metrics": ("Evaluation", "评测指标"),
    "step": ("step", "步"),
    "best": ("best", "最佳"),
    "more_curves": ("Learning rate, gradient norm, throughput", "学习率、梯度范数、吞吐量"),
    "learning_rate": ("Learning rate", "学习率"),
    "grad_norm": ("Gradient norm", "梯度范数"),
    "tokens_per_second": ("Tokens per second", "每秒词元数"),
    # labels, confusion
    "label": ("Label", "标签"),
    "support": ("records", "样本数"),
    "weakest_first": ("The {shown} weakest of {count} labels.", "{count} 个标签中表现最弱的 {shown} 个。"),
    "all_weakest_first": ("Weakest first.", "由弱到强排列。"),
    "all_labels": ("All {count} labels", "全部 {count} 个标签"),
    "sort_hint": ("Select a heading to sort.", "点击表头可排序。"),
    "gold": ("gold", "标准"),
    "predicted": ("predicted", "预测"),
    "count": ("count", "次数"),
    "share_of_gold": ("of gold", "占该标签"),
    "matrix_note": (
        "Rows: gold label. Columns: predicted label. Blue is right, orange is wrong; "
        "the stronger the colour, the larger the share of the row.",
        "行：标准标签；列：预测标签。蓝色为正确，橙色为错误；颜色越深，占该行的比例越大。",
    ),
    "top_confused": ("Most frequent confusions", "最常见的混淆"),
    "no_confusion": ("No confusions: every record is on the diagonal.", "没有混淆：所有样本都在对角线上。"),
    "whole_matrix": ("The whole matrix, {count} × {count}", "完整矩阵，{count} × {count}"),
    # errors
    "errors_note": ("Wrong answers, the most confident first.", "错误答案，按置信度从高到低排列。"),
    "confidence": ("confidence", "置信度"),
    "difference": ("off by", "相差"),
    "more_errors": ("{count} more", "另外 {count} 条"),
    "whole_text": ("whole text", "全文"),
    "cut_here": ("… and {count} more characters", "……其余 {count} 个字符"),
    "right": ("right", "正确"),
    "missed": ("missed", "遗漏"),
    "spurious": ("spurious", "误报"),
    "nothing": ("nothing", "无"),
    # written answers
    "samples": ("Written answers", "生成样例"),
    "samples_note": (
        "Records evenly spread over the split, good and bad answers alike.",
        "从该划分中均匀抽取，好坏答案一并列出。",
    ),
    "more_samples": ("{count} more", "另外 {count} 条"),
    "reference": ("reference", "参考"),
    "references": ("references", "参考"),
    "written_answer": ("written", "生成"),
    "segmentation": ("How texts are compared", "文本的切分方式"),
    "lengths": ("Lengths", "长度"),
    "lengths_source": ("Sources", "原文"),
    "lengths_answer": ("Answers and references", "生成与参考"),
    "source_lengths": ("sources", "原文"),
    "reference_lengths": ("references", "参考"),
    "predicted_lengths": ("written", "生成"),
    "length_units": ("characters or words", "字或词"),
    "sources_cut": (
        "{cut} of {records} sources ({share}, {split}) were longer than max_length and were cut.",
        "{split}集的 {records} 条原文中有 {cut} 条（{share}）超过 max_length，已截断。",
    ),
    "note_empty": ("{count} written answers are empty.", "有 {count} 条生成结果为空。"),
    # data, speed, repeat
    "split": ("Split", "划分"),
    "file_and_hash": ("File and its SHA-256", "文件及其 SHA-256"),
    "records": ("Records", "条数"),
    "audit": ("Audit", "数据检查"),
    "label_counts": ("Label counts", "标签分布"),
    "worst": ("Worst examples", "问题最大的样本"),
    "audit_empty": ("records without text", "无文本的样本"),
    "audit_duplicates": ("duplicates", "重复样本"),
    "audit_conflict_records": ("records with contradicting labels", "标签矛盾的样本"),
    "audit_unlabelled": ("records without label", "无标签的样本"),
    "audit_unknown_records": ("records with an unknown label", "含未知标签的样本"),
    "audit_none": ("None found: {names}.", "未发现：{names}。"),
    "audit_limit": ("Texts are read up to {limit} tokens.", "文本最多读取 {limit} 个词元。"),
    "comma": (", ", "、"),
    "tokens_mean": ("tokens a record, mean", "平均词元数"),
    "tokens_p95": ("tokens, 95 % of records up to", "95 % 样本的词元数不超过"),
    "tokens_max": ("tokens, longest record", "最长样本的词元数"),
    "tokens_lost": ("tokens lost", "丢失的词元"),
    "tokens_records_truncated": ("records that lose tokens", "被截断的样本"),
    "tokens_targets_cut": ("records with a cut label or answer", "标签或答案被截断的样本"),
    "tokens_records_in_windows": ("long records read in windows", "分窗读取的长样本"),
    "leaks": ("Leaks between splits", "划分之间的泄漏"),
    "leak": (
        "{count} records of {target} ({share}) also stand in {source}.",
        "{target}集中有 {count} 条（{share}）同时出现在{source}集中。",
    ),
    "target cut": ("label or answer cut", "标签或答案被截断"),
    "tokens lost": ("tokens lost", "词元丢失"),
    "unknown label": ("unknown label", "未知标签"),
    "conflicting label": ("conflicting label", "标签矛盾"),
    "empty text": ("empty text", "空文本"),
    "seconds": ("Duration", "用时"),
    "train_samples_per_second": ("Training, samples/s", "训练，样本/秒"),
    "useful_tokens_per_second": ("Useful tokens/s", "有效词元/秒"),
    "useful_token_share": ("Useful tokens", "有效词元占比"),
    "peak_memory_bytes": ("Peak memory", "内存峰值"),
    "predict_samples_per_second": ("Prediction, samples/s", "预测，样本/秒"),
    "model": ("Model", "模型"),
    "parameters": ("Parameters", "参数量"),
    "trainable": ("Trained", "训练的参数"),
    "source": ("Source", "来源"),
    "weights_sha256": ("SHA-256 of the weights", "权重 SHA-256"),
    "licence": ("Licence", "许可证"),
    "environment": ("Environment", "环境"),
    "configuration": ("Configuration", "配置"),
    "task": ("Task", "任务"),
    # splits
    "train": ("train", "训练"),
    "eval": ("eval", "验证"),
    "test": ("test", "测试"),
    # status
    "finished": ("finished", "已完成"),
    "running": ("running", "进行中"),
    "interrupted": ("interrupted", "已中断"),
    "failed": ("failed", "失败"),
    # metrics
    "accuracy": ("Accuracy", "准确率"),
    "f1": ("F1", "F1"),
    "precision": ("Precision", "精确率"),
    "recall": ("Recall", "召回率"),
    "f1_macro": ("F1, macro", "F1（宏平均）"),
    "f1_micro": ("F1, micro", "F1（微平均）"),
    "f1_weighted": ("F1, weighted", "F1（加权）"),
    "precision_macro": ("Precision, macro", "精确率（宏平均）"),
    "recall_macro": ("Recall, macro", "召回率（宏平均）"),
    "precision_micro": ("Precision, micro", "精确率（微平均）"),
    "recall_micro": ("Recall, micro", "召回率（微平均）"),
    "subset_accuracy": ("All labels right", "完全匹配率"),
    "pearson": ("Pearson correlation", "Pearson 相关系数"),
    "spearman": ("Spearman correlation", "Spearman 相关系数"),
    "mse": ("Mean squared error", "均方误差"),
    "mae": ("Mean absolute error", "平均绝对误差"),
    "rouge_1": ("ROUGE-1", "ROUGE-1"),
    "rouge_2": ("ROUGE-2", "ROUGE-2"),
    "rouge_l": ("ROUGE-L", "ROUGE-L"),
    "bleu": ("BLEU", "BLEU"),
    "chrf": ("chrF", "chrF"),
    "distinct_1": ("Distinct units", "Distinct-1"),
    "distinct_2": ("Distinct pairs of units", "Distinct-2"),
    "exact_match": ("Exact match", "完全一致率"),
}


def words(language: str) -> Say:
    """The words of "en" or "zh"; any other language reads English."""
    column = 1 if str(language).lower().startswith("zh") else 0

    def say(key: str) -> str:
        entry = _WORDS.get(key)
        return entry[column] if entry else str(key).replace("_", " ")

    return say
