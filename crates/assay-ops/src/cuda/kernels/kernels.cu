// Every kernel, as one module.
#include "adamw.cu"
#include "cached_attention.cu"
#include "grouped_attention.cu"
#include "quantised.cu"
#include "rms_norm.cu"
#include "token_logprobs.cu"
