// Compiles a model under a budget, runs it on the CPU reference and prints what came out.
//
//   cc run.c -I../include -L../../../target/debug -lnyxc -o run && ./run ../../../models/fmnist-mlp.onnx 400K
#include "nyxc.h"

#include <stdio.h>
#include <string.h>

static int failed(const char *what) {
  fprintf(stderr, "%s: %s\n", what, nyxc_last_error());
  return 1;
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s MODEL.onnx BUDGET\n", argv[0]);
    return 2;
  }
  if (nyxc_abi_version() != NYXC_ABI_VERSION) return 2;

  nyxc_compile_options options;
  memset(&options, 0, sizeof options);
  const char *dims[] = {"batch=1"};
  options.size = sizeof options;
  options.budget = argv[2];
  options.target = "lavapipe";
  options.dims = dims;
  options.n_dims = 1;
  nyxc_program *program = NULL;
  if (nyxc_compile(argv[1], &options, &program) != NYXC_STATUS_OK) return failed("compile");
  printf("planned peak %llu bytes\n", (unsigned long long)nyxc_program_planned_peak_bytes(program));

  nyxc_session *session = NULL;
  if (nyxc_session_new(program, "cpu", &session) != NYXC_STATUS_OK) return failed("load");
  nyxc_program_free(program);

  nyxc_tensor input;
  if (nyxc_session_input(session, 0, &input) != NYXC_STATUS_OK) return failed("input");
  static float image[28 * 28];
  for (int i = 0; i < 28 * 28; i++) image[i] = (float)(i * 37 % 101) / 101;
  input.data = image;
  input.bytes = sizeof image;
  nyxc_outputs *outputs = NULL;
  if (nyxc_session_run(session, &input, 1, &outputs) != NYXC_STATUS_OK) return failed("run");
  nyxc_tensor logits;
  if (nyxc_outputs_get(outputs, 0, &logits) != NYXC_STATUS_OK) return failed("output");
  printf("%s:", logits.name);
  for (size_t i = 0; i < logits.bytes / sizeof(float); i++) printf(" %.3f", ((const float *)logits.data)[i]);
  printf("\n");
  nyxc_outputs_free(outputs);
  nyxc_session_free(session);
  return 0;
}
