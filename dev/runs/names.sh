# New first names: every line a sequence of its own; the 1,000 of 32,033 that makemore holds out.
source='makemore, README and the defaults of makemore.py'
published='test loss about 1.92; with its own settings and random numbers 1.966 (doc/reproduction.md)'
figures='val_loss:lowest'
prepare() { fetch names; make_text names; }
settings='--data data/names-shuffled.txt --rows --validation 0.03122 --test 0
    --layers 4 --heads 4 --channels 64 --context 16 --batch 32 --steps 25000 --order windows
    --lr 5e-4 --schedule constant --warmup 0 --weight-decay 0.01 --beta2 0.99 --clip 1 --eval-every 500'
ours='--eval-batches 32 --sample 60 --log-every 500' # all 1,000 held-out names
