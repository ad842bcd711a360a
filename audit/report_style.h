#pragma once
// The style sheet of a report. One set of colours for light, one for dark; nothing is said by colour alone. Every text has a
// contrast of 4.5 to 1 or more with what it stands on (tests/interop/test_report_page.py computes it).

namespace overproof {

inline constexpr const char* kReportStyle = R"css(
:root{color-scheme:light dark;--back:#f6f5f2;--card:#fff;--ink:#1b2430;--soft:#525d6b;--rule:#dde1e7;--panel:#f2f4f7;--link:#1a56b0;
--a:#1f5fbf;--b:#b3541e;--c:#2e7d4f;--d:#7a3fa0;--s0:#14603a;--s0b:#e0f3e7;--s1:#0b5c69;--s1b:#dff1f4;--s3:#5437a0;--s3b:#ece7fa;
--s4:#724700;--s4b:#faefd7;--s5:#4c5764;--s5b:#e9edf1;--s6:#9d1c16;--s6b:#fde6e3}
@media(prefers-color-scheme:dark){:root{--back:#0f1318;--card:#171c23;--ink:#e5eaf1;--soft:#a2aebd;--rule:#2d3642;--panel:#1f2630;--link:#8fbbff;
--a:#7db3ff;--b:#f0a06a;--c:#74cf9a;--d:#cf9cf0;--s0:#86dba9;--s0b:#12301f;--s1:#82d4e0;--s1b:#0f2d33;--s3:#c5b2fa;--s3b:#2a2145;
--s4:#f2c67d;--s4b:#35280e;--s5:#b4bfcb;--s5b:#272f3a;--s6:#ffa49b;--s6b:#3d1a18}}
*{box-sizing:border-box}
html{scroll-padding-top:1rem}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;overflow-wrap:break-word}
a{color:var(--link)}
:focus-visible{outline:3px solid var(--link);outline-offset:2px;border-radius:3px}
main:focus{outline:none}
.skip{position:absolute;left:-999rem}
.skip:focus{left:1rem;top:1rem;z-index:1;background:var(--card);padding:.6rem 1rem;border-radius:8px}
header,footer,.columns{max-width:78rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2.2rem}
.kicker{margin:0;color:var(--soft);font-size:.8rem;letter-spacing:.08em;text-transform:uppercase}
h1{font-size:clamp(1.5rem,4.5vw,2.2rem);line-height:1.2;margin:.2rem 0 .7rem;overflow-wrap:anywhere}
.verdict{display:inline-block;margin:0;padding:.3rem .9rem;border-radius:2rem;font-weight:600}
.good{background:var(--s0b);color:var(--s0)}.bad{background:var(--s6b);color:var(--s6)}.warn{background:var(--s4b);color:var(--s4)}
.columns{padding-top:1.4rem;padding-bottom:1rem}
nav ol{list-style:none;margin:0 0 1.2rem;padding:0;display:flex;flex-wrap:wrap;gap:.15rem .9rem}
nav a{display:inline-block;padding:.22rem 0;font-size:.9rem}
section{background:var(--card);border:1px solid var(--rule);border-radius:14px;padding:1.1rem 1.4rem 1.3rem;margin:0 0 1.2rem}
h2{font-size:1.3rem;line-height:1.3;margin:0 0 .7rem}
h3{font-size:1.05rem;margin:1.5rem 0 .4rem;overflow-wrap:anywhere}
p{margin:.5rem 0;max-width:46rem}
ul{margin:.4rem 0;padding-left:1.3rem;max-width:46rem;overflow-wrap:anywhere}
.quiet{color:var(--soft);font-size:.9rem}
.note{padding:.7rem 1rem;border-radius:10px;max-width:none}
.note a{color:inherit}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.2rem,1fr));gap:.7rem;margin:1rem 0 0}
.facts div{background:var(--panel);border-radius:10px;padding:.6rem .9rem;min-width:0}
.facts dt{color:var(--soft);font-size:.8rem}.facts dd{margin:0;font-size:1.05rem;font-weight:600;overflow-wrap:anywhere}
.facts div:first-child{grid-column:1/-1}.facts div:first-child dd{font-weight:400;font-size:.98rem}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;width:100%;margin:.9rem 0 .4rem;font-size:.9rem}
caption{text-align:left;color:var(--soft);font-size:.85rem;padding-bottom:.35rem}
th,td{text-align:left;padding:.45rem 1.1rem .45rem 0;border-bottom:1px solid var(--rule);vertical-align:top}
thead th{color:var(--soft);font-weight:600;font-size:.82rem;border-bottom:2px solid var(--rule);vertical-align:bottom}
tbody th{font-weight:500}
th:last-child,td:last-child{padding-right:0}
.stacks th,.stacks td{overflow-wrap:anywhere;min-width:6.8rem}code[title]{white-space:nowrap}
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}thead .n{white-space:normal}
code{font:.86em ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;background:var(--panel);border-radius:4px;padding:.08em .3em;overflow-wrap:anywhere;-webkit-box-decoration-break:clone;box-decoration-break:clone}
.badge{display:inline-block;white-space:nowrap;border-radius:2rem;padding:.08rem .65rem;font-size:.84rem;font-weight:600}
.s0,.s2{background:var(--s0b);color:var(--s0)}.s1{background:var(--s1b);color:var(--s1)}.s3{background:var(--s3b);color:var(--s3)}
.s4{background:var(--s4b);color:var(--s4)}.s5{background:var(--s5b);color:var(--s5)}.s6{background:var(--s6b);color:var(--s6)}
details{border:1px solid var(--rule);border-radius:10px;margin:.6rem 0;padding:0 1rem}
summary{cursor:pointer;padding:.5rem 0;font-weight:500;color:var(--link)}
details[open]{padding-bottom:.7rem}
figure{margin:.8rem 0}
figcaption{color:var(--soft);font-size:.85rem;max-width:46rem}
svg{display:block;font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
figure svg{margin:0 auto}
.bar{display:inline-block;vertical-align:middle;margin-right:.5rem}.track{fill:var(--rule)}.part{fill:var(--a)}
.edge{fill:none;stroke:var(--soft);stroke-width:1.4;opacity:.75}.faint{stroke-dasharray:2 4;opacity:.55}
.box rect{fill:var(--panel);stroke:var(--soft);stroke-width:1}.end rect{stroke:var(--a);stroke-width:2}
.aside rect{fill:var(--card);stroke-dasharray:4 3}.box.bad{background:none}.bad rect{fill:var(--s6b);stroke:var(--s6);stroke-width:2}
.box text{text-anchor:middle;fill:var(--ink)}.box .name{font-weight:600;font-size:13px}.box .kind{fill:var(--soft);font-size:11px}.bad .kind{fill:var(--s6)}
.grid{stroke:var(--rule)}.tick{fill:var(--soft);font-size:11px}.line{fill:none;stroke-width:1.8}
.l0{stroke:var(--a)}.l1{stroke:var(--b);stroke-dasharray:6 3}.l2{stroke:var(--c);stroke-dasharray:2 3}.l3{stroke:var(--d)}
.load{fill:var(--a);stroke:var(--rule);stroke-width:.5}
footer{color:var(--soft);font-size:.85rem;padding-bottom:2rem}
@media(min-width:68rem){.columns{display:grid;grid-template-columns:13rem minmax(0,1fr);gap:2rem}
nav ol{display:block;position:sticky;top:1.2rem}nav a{display:block;text-decoration:none;padding:.28rem 0}nav a:hover{text-decoration:underline}}
@media(max-width:44rem){header,footer,.columns{padding-left:.8rem;padding-right:.8rem}section{padding:.9rem .95rem 1rem;border-radius:12px}
.stacks,.stacks caption,.stacks tbody,.stacks tr,.stacks th,.stacks td{display:block}
.stacks thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.stacks tr{border-bottom:1px solid var(--rule);padding:.6rem 0}.stacks th,.stacks td{border:0;padding:.12rem 0;min-width:0}
.stacks tbody th{font-weight:600}.scroll caption{max-width:calc(100vw - 4rem)}.scroll tbody th{min-width:5.6rem}
.stacks td[data-label]::before{content:attr(data-label) ": ";color:var(--soft);font-size:.82rem}}
@media print{:root{--back:#fff}body{font-size:10.5pt}nav,.skip{display:none}header,footer,.columns{max-width:none;padding:0}
section{border:0;padding:0;border-radius:0}.scroll{overflow:visible}tr,figure,.note{break-inside:avoid}h2,h3,caption{break-after:avoid}
details{border:0;padding:0}details::details-content{content-visibility:visible;display:block}.badge,.note,.verdict{print-color-adjust:exact}}
)css";

}  // namespace overproof
