// Every kernel, as one module.
#include "attention.cu"
#include "decoding.cu"
#include "logprobs.cu"
#include "optimiser.cu"
#include "quantised.cu"
#include "rows.cu"
