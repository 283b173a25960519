#!/usr/bin/env python3
"""Real traces as usage events, and the catalog that prices them.

  trace.py list
  trace.py events NAME [--dirty]     usage events as CloudEvents, one a line
  trace.py catalog NAME              the catalog (TOML) that prices them
  trace.py expected NAME             where the exact expected totals stand

--dirty delivers about 5 % of the events twice and all of them up to two minutes
late, out of order; the totals must come out the same. Times are UTC. Standard
library only. What each column means: data/README.md.
"""
import argparse
import csv
import gzip
import hashlib
import io
import json
import re
import sys
from bisect import bisect_right
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from itertools import accumulate
from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"
UTC = timezone.utc

# Traces without a natural key get one: keys 1..200 by a Zipf law in whole numbers.
ZIPF = list(accumulate(10**12 // k for k in range(1, 201)))


def zipf_key(trace, row):
    h = int.from_bytes(hashlib.sha256(f"{trace}:{row}".encode()).digest()[:8], "big")
    return bisect_right(ZIPF, h % ZIPF[-1]) + 1


def event(row, id, account, key, time, *, model=None, reason=None, billable=True,
          input_tokens=None, output_tokens=None, bytes=None, operation=None):
    units = {"requests": 1, "input_tokens": input_tokens, "output_tokens": output_tokens, "bytes": bytes}
    return {"row": row, "id": id, "account": account, "key": key, "time": time,
            "verdict": "refused" if reason else "allowed", "reason": reason,
            "billable": bool(billable and not reason), "operation": operation,
            "units": {k: v for k, v in units.items() if v is not None},
            "dimensions": {"model": model} if model else {}}


def azure(path, trace, models):
    text = gzip.open(path, "rt", newline="").read()
    for row, r in enumerate(csv.DictReader(io.StringIO(text)), 1):
        k = zipf_key(trace, row)
        time = datetime.strptime(r["TIMESTAMP"][:26], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
        yield event(row, f"{trace}-{row:07d}", f"acct-{(k - 1) % 20 + 1:02d}", f"key-{k:03d}", time,
                    model=models[(k - 1) % len(models)], operation="POST /v1/chat",
                    input_tokens=int(r["ContextTokens"]), output_tokens=int(r["GeneratedTokens"]))


def json_lines(path):
    for row, line in enumerate(gzip.open(path, "rt", encoding="utf-8"), 1):
        yield row, json.loads(line, parse_float=Decimal)


def coding_sessions(path):
    base, order = datetime(2026, 3, 10, tzinfo=UTC), {}
    for row, r in json_lines(path):
        session = r["session_id"]
        i = order.setdefault(session, len(order))
        ms = int(Decimal(r["request_arrival_delta_s"]) * 1000)
        yield event(row, f"{session}/{r['turn_index']}", f"acct-{i % 5}", f"sess-{session}",
                    base + timedelta(hours=i, milliseconds=ms), model=r["model_id"], operation="POST /v1/messages",
                    input_tokens=r["input_tokens"], output_tokens=r["output_tokens"])


COMBINED = re.compile(r'^(\S+) (\S+) (\S+) \[([^\]]+)\] "((?:[^"\\]|\\.)*)" (\d{3}) (\d+|-) '
                      r'"((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"$')


def combined_log(path, trace):
    lines = gzip.open(path, "rb").read().decode("utf-8", "replace").split("\n")
    for row, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        m = COMBINED.match(line)
        if not m:
            continue
        status = int(m[6])
        reason = {401: "unknown_key", 403: "scope", 429: "rate"}.get(status)
        yield event(row, f"{trace}-{row:06d}", "net-" + m[1].split(".")[0], "ip-" + m[1],
                    datetime.strptime(m[4], "%d/%b/%Y:%H:%M:%S %z").astimezone(UTC), reason=reason,
                    billable=status < 500, bytes=0 if m[7] == "-" else int(m[7]), operation=m[5].split(" ")[0])


def api_events(path):
    for row, r in json_lines(path):
        e = r["error_code"] or ""
        reason = "rate" if "Throttling" in e else "scope" if "AccessDenied" in e or "Unauthorized" in e else None
        yield event(row, r["event_id"], r["principal"] or "none", r["access_key"] or "none",
                    datetime.strptime(r["event_time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC),
                    reason=reason, operation=f"{r['event_source']}:{r['event_name']}")


def token_catalog(prices, cap):
    """Charges per token by model, with dated rows and the long-context price of single requests."""
    out = ['default_plan = "trace"', "",
           '[[meters]]\nname = "requests"\nevent = "request.validated"\naggregation = "sum"\nvalue = "units.requests"']
    for unit in ("input_tokens", "output_tokens"):
        out.append(f'[[meters]]\nname = "{unit}"\nevent = "request.validated"\naggregation = "sum"\n'
                   f'value = "units.{unit}"\ngroup_by = ["dimensions.model"]')
    out.append('[[plans]]\nname = "trace"\ncurrency = "USD"\ntimezone = "UTC"')
    for m in json.load(open(prices))["models"]:
        # rows with and without a long-context price share one threshold, so that filters stay the same over time
        above = {p["long_context"]["input_tokens_above"] for p in m["prices"] if p.get("long_context")}
        for p in m["prices"]:
            for unit, field in (("input_tokens", "input_per_token"), ("output_tokens", "output_per_token")):
                parts = [("", p[field])]
                if above:
                    limit = above.copy().pop()
                    parts = [(f', "units.input_tokens" = {{ lte = {limit} }}', p[field]),
                             (f', "units.input_tokens" = {{ gt = {limit} }}', (p.get("long_context") or p)[field])]
                for more, price in parts:
                    since = f"\neffective_from = {p['effective_from']}" if p["effective_from"] else ""
                    out.append(f'[[plans.charges]]\nmeter = "{unit}"\nwhere = {{ "dimensions.model" = "{m["model"]}"{more} }}'
                               f'\nmodel = "per_unit"\nunit = "{price}"{since}')
    out.append(f'[[caps]]\nsubject = "key:*"\namount = "{cap}"\nperiod = "total"\nthresholds = [50, 80, 95]\nhard = false')
    return "\n\n".join(out) + "\n"


def request_catalog(cap):
    meters = "\n\n".join(f'[[meters]]\nname = "{u}"\nevent = "request.validated"\naggregation = "sum"\nvalue = "units.{u}"'
                         for u in ("requests", "bytes"))
    charges = "\n\n".join(f'[[plans.charges]]\nmeter = "{u}"\nmodel = "per_unit"\nunit = "{p}"'
                          for u, p in (("requests", "0.0000035"), ("bytes", "0.00000000009")))
    return (f'default_plan = "trace"\n\n{meters}\n\n[[plans]]\nname = "trace"\ncurrency = "USD"\ntimezone = "UTC"\n\n{charges}\n\n'
            f'[[caps]]\nsubject = "key:*"\nmeter = "requests"\nquantity = "{cap}"\nperiod = "total"\nhard = false\n')


CHAT_MODELS = ["gpt-3.5-turbo", "gpt-4", "claude-instant-1", "claude-2"]
TRACES = {
    "azconv": (lambda: azure(DATA / "llm/azure_llm_2023_conv.csv.gz", "azconv", CHAT_MODELS),
               lambda: token_catalog(DATA / "prices/llm_prices.json", "2.50")),
    "ccsess": (lambda: coding_sessions(DATA / "llm/cc_sessions.jsonl.gz"),
               lambda: token_catalog(DATA / "prices/llm_prices.json", "100")),
    "apache1718": (lambda: combined_log(DATA / "access/apache_combined_2015-05-17_18.log.gz", "apache1718"),
                   lambda: request_catalog(40)),
    "apieventsa": (lambda: api_events(DATA / "access/api_events_2023-07-10_before_1200.jsonl.gz"),
                   lambda: request_catalog(20)),
}


def deliveries(trace, events):
    """The same events at least once and out of order, by a rule anyone can repeat."""
    out = []
    for e in events:
        digest = lambda what: hashlib.sha256(f"{trace}|{e['row']}|{what}".encode()).digest()
        for copy in range(2 if digest("dup")[0] < 13 else 1):
            late = int.from_bytes(digest(f"late|{copy}")[:4], "big") % 120
            out.append((e["time"] + timedelta(seconds=late), e["row"], copy, e))
    return [e for *_, e in sorted(out, key=lambda x: x[:3])]


def cloud_event(trace, e):
    data = {k: e[k] for k in ("account", "key", "verdict", "reason", "billable", "operation", "units", "dimensions")}
    return {"specversion": "1.0", "id": e["id"], "source": f"trace/{trace}", "type": "request.validated",
            "subject": e["key"], "time": e["time"].strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "data": data}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["list", "events", "catalog", "expected"])
    p.add_argument("name", nargs="?", choices=list(TRACES))
    p.add_argument("--dirty", action="store_true")
    a = p.parse_args()
    if a.what == "list":
        print("\n".join(TRACES))
        return
    events, catalog = TRACES[a.name or p.error("name a trace: " + ", ".join(TRACES))]
    if a.what == "catalog":
        print(catalog(), end="")
    elif a.what == "expected":
        print(DATA / "expected" / f"{a.name}.json")
    else:
        for e in deliveries(a.name, events()) if a.dirty else events():
            sys.stdout.write(json.dumps(cloud_event(a.name, e), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
