// Forward KL towards a teacher of another tokenizer (aligned.h). Of targets over the student's own ids it is forward-kl.
#include "distill/losses/losses.h"

namespace overproof {
namespace {

double merged_sparse(const SparseRow& row, const TermFactors& factors, SparseGradient* gradient) { return kForwardKl.sparse(row, factors, gradient); }
double merged_dense(const DenseRows& rows, const TermFactors& factors, DenseGradient* gradient) { return kForwardKl.dense(rows, factors, gradient); }

}  // namespace

const Loss kMergedKl{.name = "merged-kl", .help = "forward KL over ids that both tokenizers have and over stretches of several tokens",
                     .takes = {TargetKind::whole, TargetKind::sampled, TargetKind::top_k, TargetKind::aligned}, .sparse = merged_sparse,
                     .dense = merged_dense};

}  // namespace overproof
