"""The accuracy table of the model card: python3 card.py models/hearth-tiny-vl/evaluation.json [fixture]"""
import json
import sys

FORMS = (("fp16", "FP16"), ("rtn", "4-bit, round to nearest"), ("awq_pictures", "4-bit, AWQ (shipped)"))


def table(tables):
    """Markdown: accuracy and mean log-probability of the right reply, by kind and form."""
    lines = ["| kind | questions | " + " | ".join(n for _, n in FORMS) + " |", "|---|---|" + "---|" * len(FORMS)]
    for kind, row in tables["fp16"].items():
        cells = [f"{100 * tables[f][kind]['accuracy']:.1f} % ({tables[f][kind]['logprob_per_reply']:.4f})" for f, _ in FORMS]
        name = f"**{kind}**" if kind == "all" else kind
        lines.append(f"| {name} | {row['n']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        result = json.load(file)
    print(table(result["fixture"] if sys.argv[2:] == ["fixture"] else result["tables"]))
