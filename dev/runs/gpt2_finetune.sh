# OpenAI's GPT-2 (124 million weights) fine-tuned to write like Shakespeare, with its own tokenizer.
# The published log measures on the first 32,768 tokens of the text, this run on the last tenth, so
# the two start at losses that are close, not equal.
source='llm.c, README: fine-tuning in 40 steps'
published='validation loss from 5.25 to 4.11'
figures='val_loss:last'
prepare() { fetch shakespeare gpt2 gpt2-weights; }
settings='--data data/tinyshakespeare.txt --init data/gpt2 --validation 0.1 --test 0 --context 64
    --batch 4 --steps 40 --lr 1e-4 --schedule constant --warmup 0 --weight-decay 0 --beta2 0.999 --clip 0
    --dropout 0 --eval-every 10 --eval-batches 5'
ours='--log-every 1 --sample 64'
pytorch=none
seeds=1
