module fastlb/bench/peers/go

go 1.19
