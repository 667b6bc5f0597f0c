# Every program is one compile line.
#   make        builds ./train                       make run     trains on dev/data/prose.txt, then generates
#   make test   every check that needs no Python     make debug   the same program with sanitizers, ./build/train-debug
#   make bench  speed beside the machine's limits and PyTorch
#   make reproduce RUN=names        a published run, its figure beside ours: doc/reproduction.md
#   make report RUN=out/first       a page about a run, with its curves
#   make book   doc/ and the annotated sources as one page, build/book/index.html (needs pandoc)
# Another compiler or machine: make CC=clang, make CFLAGS='-O2', make OPENMP= (one thread).
# On the plain kernels, the definitions: make -B PLAIN=1.

# -O3                 unrolls loops and turns them into vector instructions
# -march=native       may use all instructions of this machine; the programs then run on machines like it
# -std=gnu11          not c11, with which gcc fuses no multiplication with an addition, at half the speed
# -fno-math-errno     sqrtf is one instruction, since it need not set errno, which nobody reads
# -Wall -Wextra       warnings; there are none
# -DPLAIN             the whole program on the plain kernels
CFLAGS ?= -O3 -march=native
FLAGS = -std=gnu11 -fno-math-errno -Wall -Wextra $(if $(PLAIN),-DPLAIN) $(CFLAGS)
# These stop at the first byte that is read or written outside its array, and at the first undefined operation.
SANITIZE = -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
# OpenMP if the compiler has it; without it everything works the same on one thread.
OPENMP := $(shell d=$$(mktemp -d) && echo 'int main(void) { return 0; }' > $$d/a.c && \
            $(CC) -fopenmp $$d/a.c -o $$d/a 2>/dev/null && echo -fopenmp; rm -rf $$d)
PYTHON ?= python3
TESTS = $(patsubst tests/%.c,build/%,$(wildcard tests/test_*.c))
SOURCES = train.c tokenizer.c

all: build/train build/tokenizer

build/train: train.c tokenizer.c | build
	$(CC) $(FLAGS) $(OPENMP) train.c -o $@ -lm
	ln -sf build/train train

build/tokenizer: tokenizer.c | build
	$(CC) $(FLAGS) tokenizer.c -o $@
	ln -sf build/tokenizer tokenizer

build/test_%: tests/test_%.c tests/check.c $(wildcard tests/child.c) $(SOURCES) | build
	$(CC) $(FLAGS) $(OPENMP) $< -o $@ -lm

build/train-debug: $(SOURCES) | build
	$(CC) $(FLAGS) $(SANITIZE) train.c -o $@ -lm

# Without OpenMP, and on the plain kernels: the tests compare their losses with those of build/train.
build/train-serial: $(SOURCES) | build
	$(CC) $(FLAGS) train.c -o $@ -lm

build/train-plain: $(SOURCES) | build
	$(CC) $(FLAGS) $(OPENMP) -DPLAIN train.c -o $@ -lm

build:
	mkdir -p build

debug: build/train-debug

# gcc's OpenMP: how long a thread that waits for the others spins before it sleeps. By default longer than the system
# lets a thread run, so that beside any busy program all others spin for nothing until it gives back its core.
run reproduce bench: export GOMP_SPINCOUNT ?= 1000

run: build/train
	./train --vocab 1024 --lr 3e-3 --steps 750 --eval-every 150 --out out/first --overwrite
	./train generate --model out/first/best --prompt "The gradient " --temperature 0.5

test: build/train build/train-serial build/train-plain $(TESTS)
	TRAIN_SERIAL=build/train-serial TRAIN_PLAIN=build/train-plain sh tests/run.sh $(TESTS)

check-portability: # compilers, libraries and machines that are at hand; prints a table
	sh dev/portability.sh

check-static: # analyzers of the source, valgrind and the thread sanitizer on a short run
	sh dev/static.sh

# The rest needs Python and the packages of dev/requirements.txt.
check-reference: # PyTorch makes the reference tensors again
	$(PYTHON) dev/reference/generate.py --check

check-tokenizer: build/tokenizer data/gpt2/vocab.json # against tiktoken, tokenizers and transformers
	$(PYTHON) dev/unicode/make_classes.py --check
	$(PYTHON) dev/reference/check_tokenizer.py --gpt2 data/gpt2

check-huggingface: build/train build/tokenizer build/logits # models both ways, and a training
	$(PYTHON) dev/reference/check_huggingface.py --programs build

check-tools: build/train # what makes texts and draws curves; without matplotlib the curves are left out
	$(PYTHON) tests/test_tools.py

check-faults: # one line broken at a time: the tests must notice
	$(PYTHON) dev/planted_faults.py $(if $(PART),--part $(PART))

# GPT-2's tokenizer, from the network or, with MIRROR=FOLDER, from a folder that has it.
data/gpt2/vocab.json: # fetched after merges.txt
	sh dev/data/fetch.sh gpt2 $(if $(MIRROR),--mirror '$(MIRROR)')

attack: build/train build/attack build/fault_shim.so # kills and full disks, minutes
	OMP_WAIT_POLICY=passive ./build/attack $(KILLS) $(STRIDE)

build/attack: tests/attack.c tests/check.c tests/child.c $(SOURCES) | build
	$(CC) $(FLAGS) $(OPENMP) $< -o $@ -lm

build/fault_shim.so: tests/fault_shim.c | build
	$(CC) -shared -fPIC -Wall -Wextra -O1 $< -o $@ -ldl

build/logits: build/%: dev/reference/%.c $(SOURCES) | build
	$(CC) $(FLAGS) $(OPENMP) $< -o $@ -lm

build/matmul_steps build/kernels build/step build/profile: build/%: dev/bench/%.c $(SOURCES) | build
	$(CC) $(FLAGS) $(OPENMP) $< -o $@ -lm

# train.c as a library, for dev/bench/products.py; nothing of its main() is in it.
build/train.so: $(SOURCES) | build
	$(CC) $(FLAGS) $(OPENMP) -Wno-unused-const-variable -shared -fPIC -DTRAIN_NO_MAIN train.c \
	    -o $@ -lm

bench: build/matmul_steps build/kernels build/profile build/step build/train.so # two minutes, and some more where PyTorch is
	./build/matmul_steps
	./build/kernels
	./build/profile 4 4 128 65 12 64
	if $(PYTHON) -c 'import numpy'; then $(PYTHON) dev/bench/products.py; \
	else echo 'numpy is not there: dev/bench/products.py is left out'; fi
	if $(PYTHON) -c 'import torch'; then $(PYTHON) dev/bench/step.py; \
	else echo 'PyTorch is not there: dev/bench/step.py is left out'; fi

reproduce: build/train # fetches its text; RUN is the name of a file in dev/runs, MIRROR=FOLDER as above
	PYTHON=$(PYTHON) MIRROR='$(MIRROR)' sh dev/runs/reproduce.sh $(RUN)

report: # needs matplotlib
	$(PYTHON) dev/report.py $(RUN)

book: # needs pandoc
	$(PYTHON) dev/book/build.py

check-book: book # its links, and in a browser if Chromium is there
	$(PYTHON) dev/book/pictures.py --check
	$(PYTHON) dev/book/check.py

# libFuzzer, with the sanitizers; they need clang.
FUZZ = clang -g -O1 -fno-math-errno -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all
SECONDS = 600

fuzz-tokenizer: | build # ten minutes
	$(FUZZ) tests/fuzz_tokenizer.c -o build/fuzz_tokenizer
	mkdir -p build/fuzz/tokenizer && cd build && \
	    ./fuzz_tokenizer -max_total_time=$(SECONDS) -max_len=2000 -close_fd_mask=2 fuzz/tokenizer

fuzz-files: | build # ten minutes for each reader
	$(FUZZ) tests/fuzz_files.c -o build/fuzz_files -lm
	for reader in safetensors model config tokens state; do \
	    mkdir -p build/fuzz/$$reader && FUZZ=$$reader ./build/fuzz_files -print_final_stats=1 \
	        -max_total_time=$(SECONDS) -max_len=8000 -close_fd_mask=2 build/fuzz/$$reader \
	        > build/fuzz/$$reader.log 2>&1 || { tail -n 30 build/fuzz/$$reader.log; exit 1; }; \
	    grep '^Done' build/fuzz/$$reader.log; \
	done

clean:
	rm -rf build train tokenizer

.PHONY: all debug run test attack check-reference check-tokenizer check-huggingface check-portability check-static \
        check-tools check-faults bench reproduce report book check-book fuzz-tokenizer fuzz-files clean
