#pragma once
// Added tokens and special ids in the files next to a vocabulary, as transformers 5.23 takes it (measured:
// tests/interop/test_added_tokens.py): tokenizer_config.json, and, where that has no added_tokens_decoder, special_tokens_map.json and
// added_tokens.json too.

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "data/added_tokens.h"

namespace overproof {

/// The files contradict the vocabulary, so another vocabulary in the folder must not be taken in its place.
class AddedTokenError : public FormatError {
 public:
  using FormatError::FormatError;
};

struct AddedTokenFiles {
  /// bos_token and its kin, in the order in which transformers adds them; no text: a file has null.
  struct Named {
    std::string name;
    std::optional<AddedToken> token;
    std::filesystem::path file;
  };
  bool has_decoder = false;             ///< tokenizer_config.json lists all added tokens, and the other files do not count
  std::map<int32_t, AddedToken> listed; ///< by the id that the file gives
  std::filesystem::path listed_in;
  std::vector<Named> named;
  std::vector<AddedToken> extra;        ///< additional_special_tokens, extra_special_tokens
  std::filesystem::path extra_in;
  const Named* find(std::string_view name) const;  ///< nullptr: no file names it
};

/// Throws FormatError for a file of another form. A folder without any of the files gives nothing.
AddedTokenFiles read_added_token_files(const std::filesystem::path& folder);

/// Adds to `added`, and changes there, what transformers does. `id_of`: the id of a text in the model's vocabulary without added tokens, -1
/// for none; `vocabulary`: how many tokens it has. A named token that is nowhere is left out with a note: transformers would add it behind
/// the rows of the model's embedding. Throws AddedTokenError where a file gives a new token another id than transformers does.
void add_tokens_of_files(const AddedTokenFiles& files, const std::function<int32_t(const std::string&)>& id_of, int64_t vocabulary,
                         std::vector<AddedToken>& added, std::vector<std::string>& notes);

}  // namespace overproof
