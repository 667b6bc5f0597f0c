# A small GPT on tiny Shakespeare, character by character, for a processor.
source='nanoGPT, README: the run for a computer without a GPU'
published='validation loss 1.88 on windows drawn at random; over the whole part 1.898, and 1.908 +- 0.011 over seeds (doc/reproduction.md)'
figures='val_loss:lowest'
prepare() { fetch shakespeare; }
settings='--data data/tinyshakespeare.txt --validation 0.1 --test 0
    --layers 4 --heads 4 --channels 128 --context 64 --no-bias --batch 12 --steps 2000 --order windows
    --lr 1e-3 --min-lr 1e-4 --warmup 100 --weight-decay 0.1 --beta2 0.99 --clip 1 --eval-every 250 --eval-batches 0'
