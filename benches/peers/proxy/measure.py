"""One run of portolan-load and what it costs the proxy; medians of runs, as Markdown."""

import json
import re
import statistics
from pathlib import Path

PEERS = ["haproxy", "nginx"]


def load(rig, options, to, authority, secs, pids, spin, rate=None):
    """Has the rig run it and returns its figures."""
    command = [*options, "--to", to, "--authority", authority]
    command += ["--seconds", secs, "--warm", min(0.3, secs / 2), "--spin", spin]
    command += ["--rate", rate] if rate else []
    command += ["--pids", ",".join(map(str, pids))] if pids else []
    line = " ".join(map(str, command))
    rig.stdin.write(f"{line}\n")
    rig.stdin.flush()
    answer = rig.stdout.readline()
    if not answer:
        raise RuntimeError(f"portolan-load ended at: {line}")
    return json.loads(answer)


def memory(pids):
    """Resident memory of these processes in KiB, with shared pages shared out."""
    total = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += int(re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)[1])
    return total


def cost(run, figure):
    """What the run did per CPU-second of the proxy."""
    did = run["octets"] / 1e6 if figure == "MB" else run["count"]
    # Below this there is nothing to divide by.
    return did / run["cpu_secs"] if run["cpu_secs"] > 0.02 else None


def rate(run, figure):
    return (run["octets"] / 1e6 if figure == "MB" else run["count"]) / run["secs"]


def busiest(run):
    """The share of the proxy's CPU time that its busiest thread took."""
    return max(run["threads"]) / sum(run["threads"]) if sum(run["threads"]) else None


def medians(runs, figure):
    """One row for each proxy, in the order of the runs."""
    by_proxy = {}
    for run in runs:
        by_proxy.setdefault(run["proxy"], []).append(run)
    rows = []
    for proxy, group in by_proxy.items():
        costs = [c for c in (cost(run, figure) for run in group) if c]
        row = {"proxy": proxy, "rounds": len(group)}
        row["per_cpu_sec"] = statistics.median(costs) if costs else None
        row["range"] = [min(costs), max(costs)] if costs else None
        row["per_sec"] = statistics.median(rate(run, figure) for run in group)
        row["cores"] = statistics.median(run["cpu_secs"] / run["secs"] for run in group)
        for field in ("p50_us", "p99_us"):
            row[field] = statistics.median(run[field] for run in group)
        shares = [s for s in map(busiest, group) if s]
        row["busiest"] = statistics.median(shares) if shares else None
        row["errors"] = sum(run["errors"] for run in group)
        row["first_error"] = next((run["error"] for run in group if run["error"]), "")
        rows.append(row)
    return rows


def ratios(runs, figure):
    """Portolan by the better of HAProxy and nginx, and by Envoy: taken round by round, since
    neighbours in time had the same machine; of those the median."""
    rounds = {}
    for run in runs:
        rounds.setdefault(run["round"], {})[run["proxy"]] = cost(run, figure)
    best, envoy = [], []
    for found in rounds.values():
        ours = found.get("portolan")
        peers = [found[p] for p in PEERS if found.get(p)]
        if ours and peers:
            best.append(ours / max(peers))
        if ours and found.get("envoy"):
            envoy.append(ours / found["envoy"])
    return [statistics.median(values) if values else None for values in (best, envoy)]


def closed_table(rows, ratios, figure):
    """The rows of one scenario."""
    yield (
        f"| proxy | {figure} per CPU-second | min to max | {figure}/s | proxy's cores "
        "| busiest thread | p50 | p99 | errors |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        low, high = row["range"] or (None, None)
        cells = [
            row["proxy"],
            count(row["per_cpu_sec"]),
            f"{count(low)} to {count(high)}",
            count(row["per_sec"]),
            f"{row['cores']:.2f}",
            percent(row["busiest"]),
            # Streams have no requests.
            us(row["p50_us"]) if figure != "MB" else "–",
            us(row["p99_us"]) if figure != "MB" else "–",
            f"{row['errors']:,} ({row['first_error']})" if row["errors"] else "0",
        ]
        yield "| " + " | ".join(cells) + " |"
    yield ""
    yield ratio_line(ratios)


def ratio_line(pair):
    best, envoy = (("–" if r is None else f"{r:.2f}") for r in pair)
    return f"portolan / best of HAProxy and nginx: **{best}**; portolan / Envoy: **{envoy}**"


def latency_rows(runs):
    """One row for each proxy and share of its maximum: what it adds to the direct way."""
    groups = {}
    for run in runs:
        groups.setdefault((run["share"], run["proxy"]), []).append(run)
    rows = []
    for (share, proxy), group in sorted(groups.items(), key=lambda item: item[0][0]):
        row = {"share": share, "proxy": proxy, "rounds": len(group)}
        row["rate"] = statistics.median(run["rate"] for run in group)
        for field in ("p50_us", "p99_us"):
            row[field] = statistics.median(run[field] for run in group)
            added = [run[field] - run["direct"][field] for run in group]
            row[f"added_{field}"] = statistics.median(added)
        row["cores"] = statistics.median(run["cpu_secs"] / run["secs"] for run in group)
        row["errors"] = sum(run["errors"] + run["unfinished"] for run in group)
        rows.append(row)
    return rows


def latency_table(rows):
    yield (
        "| of its maximum | proxy | requests/s | added p50 | added p99 | p50 | p99 "
        "| proxy's cores | errors |"
    )
    yield "|---:|---|---:|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        cells = [
            percent(row["share"]),
            row["proxy"],
            count(row["rate"]),
            us(row["added_p50_us"]),
            us(row["added_p99_us"]),
            us(row["p50_us"]),
            us(row["p99_us"]),
            f"{row['cores']:.2f}",
            count(row["errors"]),
        ]
        yield "| " + " | ".join(cells) + " |"


def idle_rows(runs):
    groups = {}
    for run in runs:
        groups.setdefault(run["proxy"], []).append(run)
    rows = []
    for proxy, group in groups.items():
        row = {"proxy": proxy, "connections": group[0]["connections"]}
        for field in ("before_kib", "after_kib", "per_connection"):
            row[field] = statistics.median(run[field] for run in group)
        row["lost"] = sum(run["connections"] - run["held"] for run in group)
        rows.append(row)
    return rows


def idle_table(rows):
    """Here less is better, and so are the ratios below 1."""
    yield "| proxy | connections | octets per connection | before | after | lost |"
    yield "|---|---:|---:|---:|---:|---:|"
    for row in rows:
        cells = [
            row["proxy"],
            count(row["connections"]),
            count(row["per_connection"]),
            f"{row['before_kib'] / 1024:.1f} MiB",
            f"{row['after_kib'] / 1024:.1f} MiB",
            count(row["lost"]),
        ]
        yield "| " + " | ".join(cells) + " |"
    yield ""
    yield ratio_line(idle_ratios(rows))


def idle_ratios(rows):
    of = {row["proxy"]: row["per_connection"] for row in rows}
    ours, envoy = of.get("portolan"), of.get("envoy")
    peers = [of[p] for p in PEERS if of.get(p)]
    best = ours / min(peers) if ours and peers else None
    return [best, ours / envoy if ours and envoy else None]


def summary(results, proxies):
    """All scenarios that have one figure for each proxy, and Portolan's ratios."""
    yield f"| scenario | figure | {' | '.join(proxies)} | / best of HAProxy and nginx | / Envoy |"
    yield "|---|---|" + "---:|" * (len(proxies) + 2)
    for result in results:
        if result["ratios"] is None:
            continue
        is_memory = result["kind"] == "memory"
        field = "per_connection" if is_memory else "per_cpu_sec"
        of = {row["proxy"]: row[field] for row in result["rows"]}
        cells = [result["scenario"]]
        cells += ["octets per connection" if is_memory else f"{result['kind']} per CPU-second"]
        cells += [count(of.get(proxy)) for proxy in proxies]
        cells += ["–" if ratio is None else f"{ratio:.2f}" for ratio in result["ratios"]]
        yield "| " + " | ".join(cells) + " |"


def count(number):
    return "–" if number is None else f"{number:,.0f}"


def percent(share):
    return "–" if share is None else f"{share:.0%}"


def us(number):
    return f"{number:,.0f} µs"
