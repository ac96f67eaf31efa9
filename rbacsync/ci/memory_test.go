package ci

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
)

// TestHomesAreOfTheLastList: after any lists, where projects deploy and which namespaces are known is as after the last one alone.
func TestHomesAreOfTheLastList(t *testing.T) {
	t.Parallel()
	fresh := func() *memory {
		return &memory{states: map[string]*namespaceState{}, lost: map[string]sets.Set[int64]{}, heard: map[string]*heard{}}
	}
	same := 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 144))
		m := fresh()
		var list []Namespace
		for range 20 {
			list = slices.Clone(list)
			switch at := r.IntN(max(len(list), 1)); {
			case len(list) == 0 || r.IntN(4) == 0:
				list = append(list, Namespace{Name: fmt.Sprintf("ns-%d", r.IntN(1000)), Projects: []Project{{ID: r.Int64N(50)}}})
			case r.IntN(4) == 0:
				list = slices.Delete(list, at, at+1)
			case r.IntN(4) == 0:
				list[at].Gone = !list[at].Gone
			case r.IntN(4) == 0:
				list[at].Projects = append(slices.Clone(list[at].Projects), Project{ID: r.Int64N(50)})
			default:
				list[at].Readers, list[at].Lost = []int64{r.Int64N(9)}, []int64{1}
				same++
			}
			m.begin(list, facts{})
			for _, n := range list {
				if m.states[n.Name] == nil {
					m.states[n.Name] = &namespaceState{n: n}
				}
			}
			want := fresh()
			want.begin(list, facts{})
			if !maps.Equal(m.home, want.home) {
				t.Fatalf("seed %d: projects deploy into %v, want %v", seed, m.home, want.home)
			}
			for name := range m.states {
				if !slices.ContainsFunc(list, func(n Namespace) bool { return n.Name == name }) {
					t.Fatalf("seed %d: %s is in no list any more and remembered", seed, name)
				}
			}
			for _, n := range list {
				if len(n.Lost) > 0 && !m.lost[n.Name].Has(1) {
					t.Fatalf("seed %d: who has lost %s is forgotten", seed, n.Name)
				}
			}
		}
	}
	if same < 500 {
		t.Errorf("only %d lists had the same namespaces: this shows little", same)
	}
}
