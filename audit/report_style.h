#pragma once
// The style sheet of a report. One set of colours for light, one for dark; nothing is said by colour alone.

namespace overproof {

inline constexpr const char* kReportStyle = R"css(:root{--back:#fff;--ink:#1c2430;--soft:#5a6675;--rule:#d8dee6;--panel:#f4f6f9;--a:#1f5fbf;--b:#b3541e;--c:#2e7d4f;--d:#7a3fa0;
--good:#1d6b3c;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--back:#14181e;--ink:#e4e9f0;--soft:#9aa7b6;--rule:#313a46;--panel:#1c222b;--a:#7db3ff;--b:#f0a06a;
--c:#74cf9a;--d:#cf9cf0;--good:#74cf9a;--bad:#ff8a80}}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:62rem;margin:0 auto;padding:1rem 1.25rem 4rem}
h1{font-size:1.7rem;margin:.8rem 0 .2rem}h2{font-size:1.25rem;margin:2.2rem 0 .6rem;border-bottom:1px solid var(--rule);padding-bottom:.25rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}ul{margin:.2rem 0;padding-left:1.3rem}
section,.wide{overflow-x:auto}table{border-collapse:collapse;margin:.6rem 0;font-size:.9rem}
th,td{text-align:left;padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--rule);vertical-align:top}th{color:var(--soft);font-weight:600}
td.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}code{font-size:.85em}
.good{color:var(--good)}.failed{color:var(--bad);font-weight:600}
svg{display:block;max-width:100%;height:auto;margin:.4rem 0;font:12px system-ui,sans-serif}
.edge{fill:none;stroke:var(--soft);stroke-width:1.3;opacity:.6}.box rect{fill:var(--panel);stroke:var(--a);stroke-width:1.2}
.bad rect{stroke:var(--bad);stroke-width:2.5;stroke-dasharray:5 3}.box text{text-anchor:middle;fill:var(--ink)}
.box .name{font-weight:600;font-size:13px}.box .kind{fill:var(--soft);font-size:11px}
.grid{stroke:var(--rule)}.tick{fill:var(--soft);font-size:11px}.line{fill:none;stroke-width:1.8}
.s0{stroke:var(--a)}.s1{stroke:var(--b);stroke-dasharray:6 3}.s2{stroke:var(--c);stroke-dasharray:2 3}.s3{stroke:var(--d)}
.load{fill:var(--a);stroke:var(--rule);stroke-width:.5}
@media print{main{max-width:none}}
)css";

}  // namespace overproof
