package byid_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/byid"
)

// TestCache compares a Cache with a map, for ids below, at and above its limit and for those that nobody should have.
func TestCache(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 1))
	for _, limit := range []int{-1, 0, 1, 50} {
		c, want := byid.New[string](limit), map[int64]string{}
		ids := []int64{0, -1, 49, 50, 51, math.MaxInt64, math.MinInt64}
		for range 1000 {
			id := ids[r.IntN(len(ids))]
			if r.IntN(2) == 0 {
				want[id] = string(rune('a' + r.IntN(26)))
				c.Set(id, want[id])
			}
			if got := c.Get(id); got != want[id] {
				t.Fatalf("limit %d: %d is %q, want %q", limit, id, got, want[id])
			}
		}
	}
}

func TestLimit(t *testing.T) {
	t.Parallel()
	if few, many := byid.Limit(1, 20000), byid.Limit(10000, 20000); few != 0 || many < 20000 {
		t.Errorf("for one source there is room for %d, for 10,000 for %d", few, many)
	}
}
