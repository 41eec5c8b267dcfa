package promql

import (
	"encoding/json"
	"math"
	"testing"
)

// TestAppendAsJSON: what is written by hand is what encoding/json writes.
func TestAppendAsJSON(t *testing.T) {
	for _, v := range []float64{0, 1, -1.5, 1796138220.123, 1e-6, 9.99e-7, 1e-9, -1.25e-10, 1e21, 1e20, 123456789e100, 5e-324, math.MaxFloat64} {
		want, _ := json.Marshal(v)
		if got := appendJSONFloat(nil, v); string(got) != string(want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for _, s := range []queryStats{
		{},
		{SamplesRead: 12, Series: 3, PeakSamples: 4, Seconds: 0.0000005, Views: []viewStats{{"speed", 17}, {"batch:5m", 0}}, Complete: true},
		{Seconds: 2, Views: []viewStats{{"a", -1}}, Reason: "the \"log\" is\nreplayed"},
	} {
		if s.Views == nil {
			s.Views = []viewStats{}
		}
		want, _ := json.Marshal(s)
		if got := appendStats(nil, &s); string(got) != string(want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
