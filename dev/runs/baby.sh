# The "baby GPT": as shakespeare.sh, but larger: hours on a small machine.  The source multiplies in bfloat16 too.
# On a processor without instructions for it, it is imitated and slower than float: take out --precision bf16 there.
source='nanoGPT, README: the run for one GPU'
published='best validation loss 1.4697'
figures='val_loss:lowest'
prepare() { fetch shakespeare; }
settings='--data data/tinyshakespeare.txt --validation 0.1 --test 0
    --layers 6 --heads 6 --channels 384 --context 256 --no-bias --dropout 0.2 --batch 64 --steps 5000 --order windows
    --lr 1e-3 --min-lr 1e-4 --warmup 100 --weight-decay 0.1 --beta2 0.99 --clip 1 --eval-every 250 --eval-batches 0'
ours='--micro-batch 8 --precision bf16'
seeds=1
