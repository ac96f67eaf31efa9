package accounts

import (
	"testing"
	"time"
)

// TestRecentKnowsWhoWasSeenLast: however many people came before, the last maxRecent are known by the time of their
// last review, and the memory stays bounded.
func TestRecentKnowsWhoWasSeenLast(t *testing.T) {
	now := day
	r := NewRecent(func() time.Time { return now })
	const people = 3*maxRecent + 7
	for id := range int64(people) {
		now = now.Add(time.Millisecond)
		r.Note(id)
		if id%100 == 0 {
			r.Note(1) // is here all the time
		}
	}
	all := r.All()
	if len(all) > 2*maxRecent {
		t.Errorf("%d people are remembered, want at most %d", len(all), 2*maxRecent)
	}
	for id := int64(people - maxRecent + maxRecent/50); id < people; id++ { // 1 takes a place now and then
		if want := day.Add(time.Duration(id+1) * time.Millisecond); !all[id].Equal(want) {
			t.Fatalf("person %d was seen at %s, want %s", id, all[id], want)
		}
	}
	if got := now.Sub(all[1]); got > 100*time.Millisecond {
		t.Errorf("who is seen all the time was last seen %s ago", got)
	}
}

// TestRecentForgets: who was not seen for two hours is forgotten when somebody else is seen.
func TestRecentForgets(t *testing.T) {
	now := day
	r := NewRecent(func() time.Time { return now })
	r.Note(1)
	now = now.Add(61 * time.Minute)
	r.Note(2)
	if all := r.All(); len(all) != 2 {
		t.Errorf("after an hour: %v", all)
	}
	now = now.Add(61 * time.Minute)
	r.Note(3)
	if _, known := r.All()[1]; known {
		t.Error("person 1 is remembered after two hours")
	}
}

// BenchmarkRecent is one review of somebody new, with the memory full.
func BenchmarkRecent(b *testing.B) {
	r := NewRecent(time.Now)
	id := int64(0)
	for ; id < 2*maxRecent; id++ {
		r.Note(id)
	}
	for b.Loop() {
		id++
		r.Note(id)
	}
}
