#include "records/arena.h"

#include "core/json_object.h"

namespace overproof {

Json to_json(const Arena& arena) {
  Json models = Json::array(), pairs = Json::array();
  for (const ArenaModel& m : arena.models)
    models.push_back({{"name", m.name}, {"rating", m.rating}, {"low", m.low}, {"high", m.high}, {"wins", m.wins}, {"losses", m.losses}, {"ties", m.ties}});
  for (const ArenaPair& p : arena.pairs)
    pairs.push_back({{"a", p.a}, {"b", p.b}, {"wins_a", p.wins_a}, {"wins_b", p.wins_b}, {"ties", p.ties}});
  return {{"judge", arena.judge},
          {"prompts", arena.prompts},
          {"draws", arena.draws},
          {"seed", arena.seed},
          {"scale", arena.scale},
          {"mean", arena.mean},
          {"with_prior", arena.with_prior},
          {"draws_with_prior", arena.draws_with_prior},
          {"not_judged", arena.not_judged},
          {"models", std::move(models)},
          {"pairs", std::move(pairs)}};
}

Arena parse_arena(std::string_view text, const fs::path& origin) {
  const Json json = parse_json(text, origin);
  const JsonObject object(json, origin);
  Arena arena{.judge = object.text("judge"),
              .prompts = object.count("prompts"),
              .draws = object.count("draws"),
              .seed = object.integer("seed", INT64_MIN, INT64_MAX),
              .scale = object.number("scale"),
              .mean = object.number("mean"),
              .with_prior = object.flag("with_prior"),
              .draws_with_prior = object.count("draws_with_prior"),
              .not_judged = object.count("not_judged")};
  for (const JsonObject& m : object.objects("models"))
    arena.models.push_back({m.text("name"), m.number("rating"), m.number("low"), m.number("high"), m.count("wins"), m.count("losses"), m.count("ties")});
  for (const JsonObject& p : object.objects("pairs"))
    arena.pairs.push_back({p.text("a"), p.text("b"), p.count("wins_a"), p.count("wins_b"), p.count("ties")});
  return arena;
}

}  // namespace overproof
