/* Tokens from a checkpoint through the C interface: generate [-m FOLDER] [-n TOKENS] TEXT; without -m the model inside the
 * library. The text goes to standard output; with -i the ids do, one line. */
#include <doge_engine.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(DogeStatus status, const char *what) {
  if (status == DOGE_STATUS_OK) return;
  fprintf(stderr, "%s: %s: %s\n", what, doge_status_name(status), doge_last_error());
  exit(1);
}

static int32_t print(void *user, const char *text, size_t n) {
  (void)user;
  return fwrite(text, 1, n, stdout) != n || fflush(stdout) != 0; /* a closed pipe ends the generation */
}

int main(int argc, char **argv) {
  const char *folder = NULL, *text = "ROMEO.\n";
  size_t tokens = 50;
  int only_ids = 0;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "-m") == 0 && i + 1 < argc) {
      folder = argv[++i];
    } else if (strcmp(argv[i], "-n") == 0 && i + 1 < argc) {
      tokens = strtoul(argv[++i], NULL, 10);
    } else if (strcmp(argv[i], "-i") == 0) {
      only_ids = 1;
    } else {
      text = argv[i];
    }
  }
  if (doge_abi_version() != DOGE_ENGINE_ABI_VERSION) {
    fprintf(stderr, "this program was compiled for another version of the library\n");
    return 1;
  }

  DogeCpu *cpu;
  DogeModel *model;
  DogeTokenizer *tokenizer;
  DogeSession *session;
  check(doge_cpu_new(NULL, &cpu), "cpu");
  check(folder ? doge_model_load(folder, NULL, &model) : doge_model_embedded(NULL, &model), "model");
  check(folder ? doge_tokenizer_load(folder, &tokenizer) : doge_tokenizer_embedded(&tokenizer), "tokenizer");
  check(doge_session_new(model, cpu, NULL, &session), "session");

  size_t n_prompt = 0;
  DogeStatus status = doge_tokenizer_encode(tokenizer, (const uint8_t *)text, strlen(text), 1, 1, NULL, 0, &n_prompt);
  if (status != DOGE_STATUS_BUFFER_TOO_SMALL) check(status, "encode");
  uint32_t *prompt = malloc((n_prompt + 1) * sizeof *prompt), *ids = malloc((tokens + 1) * sizeof *ids);
  if (!prompt || !ids) return 1;
  check(doge_tokenizer_encode(tokenizer, (const uint8_t *)text, strlen(text), 1, 1, prompt, n_prompt, &n_prompt), "encode");

  uint32_t eos[8];
  size_t n_eos;
  check(doge_tokenizer_eos(tokenizer, eos, 8, &n_eos), "eos");
  DogeGenerateOptions options = {.struct_size = sizeof options};
  options.max_new_tokens = tokens;
  options.eos_token_ids = eos;
  options.n_eos_token_ids = n_eos;
  options.tokenizer = tokenizer;
  options.on_text = only_ids ? NULL : print;
  DogeGenerated result = {.struct_size = sizeof result};
  check(doge_generate(session, prompt, n_prompt, &options, ids, tokens, &result), "generate");
  for (size_t i = 0; only_ids && i < result.n_tokens; i++) printf("%u ", ids[i]);
  printf("\n");
  fprintf(stderr, "%zu tokens in %.3f s\n", result.n_tokens, result.prefill_seconds + result.decode_seconds);

  free(prompt);
  free(ids);
  doge_session_free(session);
  doge_tokenizer_free(tokenizer);
  doge_model_free(model);
  doge_cpu_free(cpu);
  return 0;
}
