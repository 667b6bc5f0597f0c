# All 10,000 sums of two numbers below 100; 500 of them are held out.
source='minGPT, projects/adder (gpt-nano); 1000 of 1000 in its older notebook play_math.ipynb'
published='none for this adder; a public log of it: 497 of 500 after 2,000 steps, all 500 after 2,500'
figures='val_accuracy:last'
prepare() { make_text addition; }
settings='--data data/addition.txt --rows --answer-after = --validation 0.05 --test 0
    --layers 3 --heads 3 --channels 48 --context 9 --dropout 0.1 --batch 64 --steps 5000 --order windows
    --lr 5e-4 --schedule constant --warmup 0 --weight-decay 0.1 --beta2 0.95 --clip 1 --eval-every 500'
ours='--eval-batches 0 --sample 9'
