// The panel's own words by language. What the server says (warnings, notes, files) is shown as it comes.

const ENGLISH = {
  "hint.acts": "After a run: what was changed, and how far it acts on each prompt.",
  "hint.guards": "After a run: which rules each prompt touched.",
  "hint.load": "After a run: what the file holds.",
  "hint.save": "After a run: what was saved.",
  "hint.inspect": "After a run: everything known about the membranes.",
  "hint.guides": "After a run: what it did at each step, and what it cost.",
  "hint.steers": "After a run: what is kept out, where and when. It costs no evaluation.",
  "hint.rewrites": "After a run: what was taken out of the text. It costs no evaluation.",
  "evaluations": (count, times, cfg) => `${count} evaluations, ${times} times, cfg ${cfg}`,
  "evaluations.tip": "Texts that the model evaluated in this run, and how many times as many as without these nodes.",
  "density": "mask density",
  "density.tip": "Share of the picture that the push acted on.",
  "gate.now": "gate",
  "gate.now.tip": "How far the gate was open: window, belief, or 1.",
  "share": "‖term‖ / ‖w·c‖",
  "share.tip": "Size of the push beside that of guidance itself; a gap where it is not known.",
  "empty.prompt": "(empty)",
  "empty": "No membrane in the list.",
  "gains": "Effect on each prompt",
  "gains.tip":
    "How far each membrane changed each prompt of the last pictures: 0 = not at all, to the last bit; 1 = as solved.",
  "waiting": "The effect on each prompt appears when pictures are drawn.",
  "untouched": "touches no rule",
  "passes": "passes as it is",
  "unjudged": "not judged",
  "unjudged.tip":
    "The words of this text are not known (it was joined, averaged or made by another text encoder), and this node " +
    "does not judge vectors.",
  "negative": "negative prompt",
  "negative.tip": "Text of the negative prompt. It is changed only with rows = all.",
  "approximate": "approximate",
  "approximate.tip":
    "The words of this text are not known (it was joined, averaged or made by another text encoder), " +
    "so its vectors were compared with those of the concept.",
  "rows.tip": "Several texts in one conditioning",
  "layers": "layers",
  "layers.tip": "Places where the model reads the text: changed of all.",
  "layers.of": (matched, total) => `${matched} of ${total}`,
  "rank": "rank",
  "rank.tip": "How many independent directions of the text are changed.",
  "norm": "‖T−I‖",
  "norm.tip": "Size of the change: the most that any text is moved, as a share of its own length.",
  "drift": "drift",
  "drift.tip": "How far the preserved phrases move on average; less is better.",
  "act_on": "acts on",
  "act_on.tip":
    "text = the prompt on its way into the model; layers = what the model's layers give, each prompt by its own gain; " +
    "weights = baked into the model, the same for every prompt.",
  "strength": "strength",
  "strength.tip": "0 = off, 1 = as solved.",
  "gate": "gate",
  "gate.tip":
    "always = every prompt; calibrated = prompts that name or describe the concept; words = that name it; " +
    "likeness = texts like it; either = the larger of the two; both = their product; transport = as published with SPM.",
  "part": "part",
  "part.tip": "The part of the sampling in which it acts: 0 = its start, 1 = its end.",
  "closed": (closed, all) => `${closed} of ${all} closed`,
  "closed.tip": "These did nothing to this prompt, to the last bit, and cost nothing.",
  "why.words": "not named",
  "why.likeness": "not like it",
  "why.either": "neither named nor alike",
  "why.both": "not named, or not alike",
  "why.transport": "not like it",
  "why.calibrated": "neither named nor described",
  "why.always": "no effect",
  "family": "family",
  "family.tip": "Kind of model.",
};

const CHINESE = {
  "hint.acts": "运行后显示：改动了什么，以及对每条提示词的作用程度。",
  "hint.guards": "运行后显示：每条提示词触及了哪些规则。",
  "hint.load": "运行后显示文件的内容。",
  "hint.save": "运行后显示保存了什么。",
  "hint.inspect": "运行后显示这些膜的全部信息。",
  "hint.guides": "运行后显示：每一步做了什么，用了多少计算。",
  "hint.steers": "运行后显示：避开什么，在哪些层、什么时候。不增加计算。",
  "hint.rewrites": "运行后显示：从文本中去掉了什么。不增加计算。",
  "evaluations": (count, times, cfg) => `${count} 次计算，${times} 倍，cfg ${cfg}`,
  "evaluations.tip": "这次运行中模型计算了多少段文本，是没有这些节点时的多少倍。",
  "density": "遮罩密度",
  "density.tip": "推力作用于图片的份额。",
  "gate.now": "门",
  "gate.now.tip": "门打开的程度：时间窗、信念，或 1。",
  "share": "‖term‖ / ‖w·c‖",
  "share.tip": "推力与引导本身大小之比；未知处留空。",
  "empty.prompt": "（空）",
  "empty": "列表中没有膜。",
  "gains": "对每条提示词的作用",
  "gains.tip": "最近一次出图时，每个膜对每条提示词的改变程度：0 = 完全不变；1 = 按求解结果生效。",
  "waiting": "出图时会显示对每条提示词的作用。",
  "untouched": "未触及任何规则",
  "passes": "原样通过",
  "unjudged": "未判断",
  "unjudged.tip": "不知道这段文本的词语（它被拼接、平均，或来自别的文本编码器），而这个节点不按向量判断。",
  "negative": "负面提示词",
  "negative.tip": "负面提示词的文本，只有 rows = all 时才会改变。",
  "approximate": "近似",
  "approximate.tip": "不知道这段文本的词语（它被拼接、平均，或来自别的文本编码器），因此改为比较它与概念的向量。",
  "rows.tip": "一个条件中有多段文本",
  "layers": "层数",
  "layers.tip": "模型读取文本的位置：已改动数 / 总数。",
  "layers.of": (matched, total) => `${matched} / ${total}`,
  "rank": "秩",
  "rank.tip": "文本中有多少个独立方向被改动。",
  "norm": "‖T−I‖",
  "norm.tip": "改动的大小：文本最多移动其自身长度的多少倍。",
  "drift": "漂移",
  "drift.tip": "要保留的短语平均移动多少，越小越好。",
  "act_on": "作用于",
  "act_on.tip": "text = 进入模型途中的提示词；layers = 模型各层的输出，每条提示词按各自的增益；weights = 写入模型权重，对所有提示词相同。",
  "strength": "强度",
  "strength.tip": "0 = 关闭，1 = 按求解结果。",
  "gate": "门",
  "gate.tip":
    "always = 所有提示词；calibrated = 提到或描述该概念的提示词；words = 提到它的提示词；" +
    "likeness = 与它相似的文本；either = 两者中较大的；both = 两者之积；transport = 与 SPM 发表的一致。",
  "part": "阶段",
  "part.tip": "在采样的哪一段起作用：0 = 开始，1 = 结束。",
  "closed": (closed, all) => `${all} 个中有 ${closed} 个关闭`,
  "closed.tip": "它们对这条提示词完全没有作用，也没有任何开销。",
  "why.words": "未提到",
  "why.likeness": "不相似",
  "why.either": "未提到也不相似",
  "why.both": "未提到或不相似",
  "why.transport": "不相似",
  "why.calibrated": "未提到也未描述",
  "why.always": "没有作用",
  "family": "模型类别",
  "family.tip": "模型的种类。",
};

let chosen = ENGLISH;

/** Chooses the language by the host's locale, such as "zh"; English for those we do not have. */
export function useLanguage(locale) {
  chosen = String(locale ?? "") === "zh" ? CHINESE : ENGLISH;
}

/** One of the words above; with values where it is a sentence to fill. */
export function say(key, ...values) {
  const found = chosen[key] ?? ENGLISH[key] ?? key;
  return typeof found === "function" ? found(...values) : found;
}
