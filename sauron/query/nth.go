package query

import (
	"math"
	"slices"
)

// percentileOf is percentile of values in any order, which it moves about: only the two that count are brought to their places.
func percentileOf(values []float64, p float64, e estimation) float64 {
	n := len(values)
	if n <= 24 {
		slices.Sort(values)
		return percentile(values, p, e)
	}
	pos := position(n, p, e)
	switch {
	case pos < 1:
		return slices.Min(values)
	case pos >= float64(n):
		return slices.Max(values)
	}
	i := int(pos)
	place(values, i-1)
	lower, upper := values[i-1], slices.Min(values[i:])
	return lower + (pos-math.Floor(pos))*(upper-lower)
}

// place moves values until the k-th is where it would be if they were sorted, with none greater before it and none less behind it.
func place(values []float64, k int) {
	lo, hi := 0, len(values)-1
	for rounds := 0; lo < hi; rounds++ {
		if rounds > 64 { // an order that this way of halving does not suit
			slices.Sort(values[lo : hi+1])
			return
		}
		a, b, c := values[lo], values[lo+(hi-lo)/2], values[hi]
		pivot := max(min(a, b), min(max(a, b), c))
		i, j := lo, hi
		for i <= j {
			for values[i] < pivot {
				i++
			}
			for values[j] > pivot {
				j--
			}
			if i <= j {
				values[i], values[j] = values[j], values[i]
				i++
				j--
			}
		}
		switch {
		case k <= j:
			hi = j
		case k >= i:
			lo = i
		default:
			return
		}
	}
}
