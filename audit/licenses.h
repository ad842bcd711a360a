#pragma once
// What licences and teachers' terms ask for: a table compiled in, and the reading of licence names as people write them, in SPDX
// expressions (https://spdx.github.io/spdx-spec/v3.0.1/annexes/spdx-license-expressions/) and in Debian's short names
// (https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/#license-syntax).
//
// The table is a reading aid, not legal advice: it lists the clauses to read, never whether they are kept.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace overproof {

/// A clause that has to be met, or read.
enum class Duty {
  notice,          ///< keep copyright notice and licence text
  attribution,     ///< name the author
  share_alike,     ///< derived works under the same licence
  network_source,  ///< source for users over a network, too
  non_commercial,
  no_derivatives,
  use_restrictions,      ///< an acceptable-use policy goes with it
  name_prefix,           ///< the derived model's name begins with a given word
  built_with,            ///< a given text is displayed
  derivative_by_output,  ///< a model trained on the model's output is a derivative, under the same terms
  own_family_only,       ///< output must not improve other models than the publisher's
  no_competing_models,   ///< output must not be used to make competing models
  scale_limit,           ///< a licence of its own is needed above a number of users
};
inline constexpr int kDuties = 13;

/// "share-alike"
std::string_view duty_name(Duty duty);
/// The duty of that name; nothing found: kDuties as a number is returned.
int duty_index(std::string_view name);
/// What it means, in one line.
std::string_view duty_meaning(Duty duty);
/// Whether it follows a model's output, and not only its weights.
bool duty_follows_output(Duty duty);

struct LicenseTerms {
  std::string_view id;  ///< SPDX identifier, or LicenseRef-… for terms that SPDX does not list
  std::string_view name;
  std::uint32_t duties = 0;   ///< bit i: Duty(i)
  std::string_view required;  ///< what name_prefix and built_with ask for: "Llama"
  bool has(Duty duty) const { return (duties >> unsigned(duty) & 1U) != 0; }
  bool listed() const { return !id.starts_with("LicenseRef-"); }
};

/// All there are, by identifier.
std::span<const LicenseTerms> license_table();

/// nullptr when the table does not know it.
const LicenseTerms* find_license(std::string_view id);

/// A licence as it was recorded, understood as far as possible.
struct LicenseExpression {
  enum class Kind { one, all_of, any_of } kind = Kind::one;
  std::string id;                          ///< of one: as SPDX spells it, or LicenseRef-… ; "" when nothing was recorded
  std::vector<LicenseExpression> members;  ///< of all_of, any_of
  /// As an SPDX expression; "NOASSERTION" when nothing was recorded.
  std::string text() const;
  /// Every single licence in it, sorted, each once.
  std::vector<std::string> ids() const;
};

/// Never fails: what is no expression becomes one LicenseRef. "" and "unspecified" are nothing recorded.
LicenseExpression parse_license(std::string_view recorded);

/// "https://spdx.org/licenses/MIT"; "" when SPDX does not list it, or this program does not know that it does.
std::string license_url(std::string_view id);

}  // namespace overproof
