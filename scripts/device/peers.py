"""Hearth's CPU engine beside llama.cpp on a machine without Node: both loaded once on the same pinned cores, then taking turns.

    python3 scripts/device/peers.py FOLDER [--isa best|avx2] [--pairs 5] [--threads 2] [--group 32|128] [--seconds 0]

A JSON line a comparison, with the keys of `npm run bench:peers -- --json`. FOLDER holds hearth-bench, llama-cpp
(scripts/peers/llama-cpp.cpp), the peer's libraries, gguf-body.py with header.bin and plan.txt (gguf.mjs's writePlan), and a
folder best/ with libggml-cpu-sapphirerapids.so or avx2/ with -haswell.so: llama.cpp takes the best library of the folder.
--seconds ends the turns early, so that a lent machine is given back in time; medians are printed after every turn then.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

# phase, batch, prompt, new tokens: prefill and decode of 128 come from one run.
RUNS = [(128, 1, 24), (512, 1, 2), (16, 8, 16)]
COMPARED = [("decode", 1, 128), ("prefill", 1, 128), ("prefill", 1, 512), ("decode", 8, 16)]


def start(command, cores, env, folder):
    def pin():
        os.sched_setaffinity(0, cores)

    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=pin,
                            env={**os.environ, **env, "LD_LIBRARY_PATH": folder}, bufsize=1)


def ask(process, prompt, batch, new, lines):
    process.stdin.write(f"{prompt} {batch} {new}\n")
    process.stdin.flush()
    return [json.loads(process.stdout.readline()) for _ in range(lines)]


def report(ours, peer, threads, isa):
    for key in COMPARED:
        a, b = statistics.median(ours[key]), statistics.median(peer[key])
        print(json.dumps({"phase": key[0], "batch": key[1], "prompt": key[2], "threads": threads, "isa": isa, "ours": round(a, 2),
                          "peer": round(b, 2), "ratio": round(a / b, 2)}), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--isa", default="best")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--group", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0)
    o = parser.parse_args()
    begin = time.monotonic()
    folder = os.path.abspath(o.folder)
    gguf = folder + "/random.gguf"
    if not os.path.exists(gguf):
        subprocess.run([sys.executable, folder + "/gguf-body.py", folder, gguf], check=True)
    cores = sorted(os.sched_getaffinity(0))[: o.threads]
    bench = [folder + "/hearth-bench", "--json", "--shape", "llama-1.1b", "--device", "cpu", "--precision", "w4a8", "--group", str(o.group),
             "--head-bits", "4", "--batch", "8", "--prompt", "512", "--context", "640", "--threads", str(o.threads), "--interactive"]
    if o.group == 32:
        bench.append("--symmetric")
    ours = start(bench, cores, {} if o.isa == "best" else {"HEARTH_CPU_MAX": o.isa}, folder)
    ours.stderr.readline()  # "ready"; the bandwidth was measured while the peer was not there
    print(f"ours loaded after {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
    peer = start([folder + "/llama-cpp", f"{folder}/{o.isa}", gguf, str(o.threads)], cores, {}, folder)
    text = ""
    while "CPU" not in text:
        text = peer.stderr.readline()
    print(text.strip(), f"peer loaded after {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
    mine, theirs = {}, {}
    for turn in range(o.pairs + 1):  # the first turn warms both and is not counted
        for prompt, batch, new in RUNS:
            answers = {}
            for who, lines in [(ours, 2), (peer, 1)][:: 1 if turn % 2 else -1]:  # whoever is second may find the cores warm
                answers[who] = ask(who, prompt, batch, new, lines)
            a, b = answers[ours], answers[peer][0]
            print("  ", " ".join(f"{line['phase']} {batch}x{prompt}: {line['tokens_per_second']:.1f} / {b[line['phase']]:.1f}" for line in a),
                  f"| of the limit {a[1]['fraction_of_limit']:.2f} of {a[1]['bandwidth_gb_s']:.1f} GB/s", "(warm-up)" if turn == 0 else "", file=sys.stderr, flush=True)
            for line in a if turn else []:
                mine.setdefault((line["phase"], batch, prompt), []).append(line["tokens_per_second"])
                theirs.setdefault((line["phase"], batch, prompt), []).append(b[line["phase"]])
        late = o.seconds and time.monotonic() - begin > o.seconds
        if turn and (o.seconds or turn == o.pairs):
            report(mine, theirs, o.threads, o.isa)
        if late:
            break
    ours.kill()
    peer.kill()


main()
