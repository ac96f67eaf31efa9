package pace

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

var start = time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)

// model is a bucket by its definition.
type model struct {
	tokens float64
	at     time.Time
}

func (m *model) allow(perSecond float64, burst int, now time.Time) bool {
	m.tokens = min(float64(burst), m.tokens+now.Sub(m.at).Seconds()*perSecond)
	if m.at = now; m.tokens < 1 {
		return false
	}
	m.tokens--
	return true
}

// TestEachPersonHasABucket: whoever asks when, each person is limited as if nobody else asked and nothing were ever forgotten.
func TestEachPersonHasABucket(t *testing.T) {
	refused, generations := 0, 0
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 21))
		perSecond, burst := []float64{0.5, 1, 4, 16}[r.IntN(4)], 1+r.IntN(20)
		p, models, now := New(perSecond, burst), map[int64]*model{}, start
		for range 3000 {
			user, turned := r.Int64N(6), p.turned
			if models[user] == nil {
				models[user] = &model{float64(burst), now}
			}
			got, want := p.Allow(user, now), models[user].allow(perSecond, burst, now)
			if got != want {
				t.Fatalf("seed %d: user %d at %s: allowed %t, want %t", seed, user, now, got, want)
			}
			if !got {
				refused++
			}
			if p.turned != turned {
				generations++
			}
			switch r.IntN(40) { // in steps that floating point has exactly
			case 0:
				now = now.Add(time.Duration(r.IntN(4*burst)+1) * time.Second)
			case 1, 2, 3, 4, 5, 6, 7, 8, 9:
				now = now.Add(time.Duration(r.IntN(8)) * 125 * time.Millisecond)
			}
		}
	}
	if refused < 1000 || generations < 1000 {
		t.Errorf("%d refused, %d generations: the test looks at too little", refused, generations)
	}
}

// TestMemoryIsBounded: however many people ask, and however fast, no more than two generations are kept, and a new person has a turn.
func TestMemoryIsBounded(t *testing.T) {
	p, now := New(1, 30), start
	for user := range int64(10 * maxPeople) {
		if !p.Allow(user, now) {
			t.Fatalf("user %d is refused for what others did", user)
		}
		if n := len(p.used) + len(p.before); n > 2*maxPeople {
			t.Fatalf("%d buckets", n)
		}
	}
	for range 3 { // and those who are gone are forgotten
		now = now.Add(time.Minute)
		p.Allow(1, now)
	}
	if n := len(p.used) + len(p.before); n > 2 {
		t.Errorf("%d buckets of one person", n)
	}
}

// TestAClockThatGoesBack refuses nobody for longer, and forgets nobody.
func TestAClockThatGoesBack(t *testing.T) {
	p := New(1, 2)
	for i, want := range []bool{true, true, false, false} {
		if got := p.Allow(1, start.Add(-time.Duration(i)*time.Minute)); got != want {
			t.Errorf("request %d: %t", i, got)
		}
	}
	if !p.Allow(1, start.Add(time.Second)) {
		t.Error("a second later there is no turn")
	}
}

func TestManyAtTheSameTime(t *testing.T) {
	p := New(1, 100)
	var all sync.WaitGroup
	var mu sync.Mutex
	turns := 0
	for range 8 {
		all.Go(func() {
			for range 50 {
				if p.Allow(1, start) {
					mu.Lock()
					turns++
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	if turns != 100 {
		t.Errorf("%d turns", turns)
	}
}
