package audit

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// TestADamagedBaseIsRefused: whatever numbers a base has, it is an error or a book that can be worked with, and fills no memory.
func TestADamagedBaseIsRefused(t *testing.T) {
	t.Parallel()
	numbers := func(differences ...uint64) (packed []byte) {
		for _, d := range differences {
			packed = binary.AppendUvarint(packed, d)
		}
		return packed
	}
	for name, c := range map[string]struct {
		held heldRole
		ok   bool
	}{
		"right":                     {heldRole{3, "edit", numbers(1, 4)}, true},
		"without rows":              {heldRole{9, "edit", numbers(70)}, true},
		"nobody":                    {heldRole{3, "edit", nil}, false},
		"no namespace":              {heldRole{0, "edit", numbers(1)}, false},
		"a namespace far away":      {heldRole{1<<32 - 1, "edit", numbers(1)}, false},
		"person 0":                  {heldRole{3, "edit", numbers(0)}, false},
		"a person far away":         {heldRole{3, "edit", numbers(1 << 40)}, false},
		"a number that goes around": {heldRole{3, "edit", numbers(5, 1<<64-3)}, false},
		"half a number":             {heldRole{3, "edit", []byte{0x80}}, false},
	} {
		text, err := json.Marshal(base{State: []heldRole{c.held}})
		if err != nil {
			t.Fatal(err)
		}
		b := newBook()
		_, err = b.readBase(strings.NewReader(string(text)))
		if c.ok != (err == nil) || err != nil && !errors.Is(err, errBlock) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		b.fit(0, 0)
		b.prune(newNumbers())
		for n := range b.now() {
			if b.namespaceName(n) == "" {
				t.Errorf("%s: namespace %d has no name", name, n)
			}
		}
	}
}
