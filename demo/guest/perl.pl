# Sorts words and counts them, and does it the other way round: both must agree.
use strict;
use warnings;
$| = 1;
my $seed = 1;
while (1) {
    my @words = map { $seed = ($seed * 1103515245 + 12345) % 2147483648; 'w' . ($seed >> 12) % 20000 }
        1 .. 80000;
    my %count;
    $count{$_}++ for @words;
    my ($runs, $last, $most) = (0, '', 0);
    my $run = 0;
    for (sort @words) {
        $run = $_ eq $last ? $run + 1 : 1;
        $runs++ if $run == 1;
        $most = $run if $run > $most;
        $last = $_;
    }
    my ($top) = sort { $b <=> $a } values %count;
    if ($runs == keys %count && $most == $top) {
        print "demo: round 80000 words sorted and counted\n";
    } else {
        print "demo: FAILED $runs and ", scalar(keys %count), ", $most and $top\n";
    }
}
