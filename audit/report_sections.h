#pragma once
// Sections of the report that report_page.cc puts together, and what they share.

#include "audit/report_page.h"

namespace overproof {

inline constexpr size_t kMostRows = 500;  ///< of a table; a page that no browser opens says nothing

/// "12.3 MB"
std::string bytes_text(double bytes);
/// The sentence below a table that was cut.
PageBlock more_rows(size_t all, const std::string& command);

PageSection licenses_section(const Report& report);
PageSection sources_section(const Report& report);
PageSection experts_section(const Report& report);
PageSection replay_section(const Report& report);
PageSection rows_section(const Report& report);
PageSection recompute_section(const Report& report);
PageSection evidence_section(const Report& report);
PageSection records_section(const Report& report);

}  // namespace overproof
