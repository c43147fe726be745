"""One run of dnsperf and what it costs the server; medians of runs, as Markdown."""

import os
import re
import statistics
import subprocess
from pathlib import Path

import daemons

# How long dnsperf waits for an answer before it counts it as lost.
LOST_SECS = 2
# Sockets that queries come from: the kernel deals them out to a server's workers by their port.
SOCKETS = 32
GOOD = {"NOERROR", "NXDOMAIN"}


def cpu_secs(pid):
    """User and system time of all of a process's threads, those that ended included."""
    # The command's name, in parentheses, may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid):
    """Resident memory in KiB, whole and with shared pages shared out."""

    def field(page, name):
        text = Path(f"/proc/{pid}/{page}").read_text()
        return int(re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)[1])

    return {"rss_kib": field("status", "VmRSS"), "pss_kib": field("smaps_rollup", "Pss")}


def dnsperf(server, questions, cores, secs, passes, args):
    """Asks the file's questions for so long, or so many times over if that is sooner."""
    command = ["taskset", "--cpu-list", cores, "dnsperf", "-s", "127.0.0.1"]
    command += ["-p", server.port, "-d", questions, "-l", secs, "-t", LOST_SECS]
    command += ["-c", SOCKETS, "-q", args.outstanding]
    command += ["-Q", args.rate] if args.rate else []
    command += ["-e"] if args.edns else []
    command += ["-n", passes] if passes else []
    env = daemons.environment() | {"LC_ALL": "C"}
    before = cpu_secs(server.pid)
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True)
    cpu = cpu_secs(server.pid) - before
    if done.returncode != 0:
        raise RuntimeError(f"dnsperf on {server.name}: {done.stdout}{done.stderr}")
    return _figures(done.stdout, cpu)


def _figures(text, cpu):
    def number(pattern):
        found = re.search(pattern, text)
        if not found:
            raise RuntimeError(f"dnsperf: no {pattern!r} in {text}")
        return float(found[1])

    completed = number(r"Queries completed: +(\d+)")
    rcodes = re.findall(r"([A-Z]+\d*) (\d+) \(", re.search(r"Response codes:(.*)", text)[1])
    run_secs = number(r"Run time \(s\): +([\d.]+)")
    return {
        "completed": int(completed),
        "lost": int(number(r"Queries lost: +(\d+)")),
        # Answers that are none: SERVFAIL, REFUSED.
        "failed": sum(int(count) for rcode, count in rcodes if rcode not in GOOD),
        "secs": run_secs,
        "cpu_secs": round(cpu, 3),
        "server_cores": cpu / run_secs,
        "queries_per_sec": completed / run_secs,
        # Below two ticks of the clock there is nothing to divide by.
        "queries_per_cpu_sec": completed / cpu if cpu > 0.02 else None,
        "mean_latency_us": number(r"Average Latency \(s\): +([\d.]+)") * 1e6,
        "request_octets": number(r"Average packet size: +request (\d+)"),
        "answer_octets": number(r"Average packet size: .*response (\d+)"),
    }


def medians(runs):
    """One row per part, workers, mix and server, in the order of the runs."""
    rows = {}
    for run in runs:
        rows.setdefault(_key(run), []).append(run)
    portolan = {k[:3]: {r["round"]: r for r in rs} for k, rs in rows.items() if k[3] == "portolan"}
    for key, group in rows.items():
        costs = [r["queries_per_cpu_sec"] for r in group if r["queries_per_cpu_sec"]]
        row = dict(zip(("part", "workers", "mix", "server"), key)) | {"rounds": len(group)}
        for field in ("queries_per_sec", "server_cores", "mean_latency_us", "answer_octets"):
            row[field] = statistics.median(r[field] for r in group)
        row["lost"] = sum(r["lost"] for r in group)
        row["failed"] = sum(r["failed"] for r in group)
        row["queries_per_cpu_sec"] = statistics.median(costs) if costs else None
        row["queries_per_cpu_sec_range"] = [min(costs), max(costs)] if costs else None
        # Round by round: neighbours in time had the same machine.
        ratios = [
            ours["queries_per_cpu_sec"] / r["queries_per_cpu_sec"]
            for r in group
            if (ours := portolan.get(key[:3], {}).get(r["round"]))
            and ours["queries_per_cpu_sec"]
            and r["queries_per_cpu_sec"]
        ]
        row["portolan_ratio"] = statistics.median(ratios) if ratios else None
        yield row


def _key(run):
    return run["part"], run["workers"], run["mix"], run["server"]


def table(rows):
    """The rows of one part and number of workers, as Markdown."""
    yield (
        "| mix | server | queries per CPU-second | min to max | portolan / it | queries/s "
        "| server's cores | mean latency | lost | failed | answer |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        low, high = row["queries_per_cpu_sec_range"] or (None, None)
        cells = [
            row["mix"],
            row["server"],
            _count(row["queries_per_cpu_sec"]),
            f"{_count(low)} to {_count(high)}",
            "–" if row["portolan_ratio"] is None else f"{row['portolan_ratio']:.2f}",
            _count(row["queries_per_sec"]),
            f"{row['server_cores']:.2f}",
            f"{row['mean_latency_us']:.0f} µs",
            f"{row['lost']:,}",
            f"{row['failed']:,}",
            f"{row['answer_octets']:.0f} B",
        ]
        yield "| " + " | ".join(cells) + " |"


def memory_table(rows):
    """Memory as Markdown."""
    yield "| part | workers | server | when | VmRSS | Pss |"
    yield "|---|---:|---|---|---:|---:|"
    for row in rows:
        sizes = " | ".join(f"{row[f] / 1024:.1f} MiB" for f in ("rss_kib", "pss_kib"))
        yield f"| {row['part']} | {row['workers']} | {row['server']} | {row['when']} | {sizes} |"


def _count(number):
    return "–" if number is None else f"{number:,.0f}"
