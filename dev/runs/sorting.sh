# Sorting six digits of 0, 1 and 2.  A quarter of the 729 inputs is never trained on.
source='minGPT, demo.ipynb (gpt-nano)'
published='5000 of 5000 test sequences right'
figures='val_accuracy:last'
prepare() { make_text sorting; }
settings='--data data/sorting.txt --rows --answer-after = --validation 0.2 --test 0
    --layers 3 --heads 3 --channels 48 --context 14 --dropout 0.1 --batch 64 --steps 2000 --order windows
    --lr 5e-4 --schedule constant --warmup 0 --weight-decay 0.1 --beta2 0.95 --clip 1 --eval-every 250'
ours='--eval-batches 0 --sample 14'
