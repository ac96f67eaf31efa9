package rbacsync

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// HashOf names a set of held things by what they are, not by when or why: the SHA-256 of their keys and of what a change of the
// policy takes in all, shortened. Whoever approves by it approves what they have seen (docs/adr/0138).
func HashOf(items []Item) string {
	keys := make([]string, 0, len(items))
	for _, i := range items {
		key := i.Key()
		if i.All.Sum != "" {
			key += " " + i.All.Sum
		}
		keys = append(keys, key)
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	sum := sha256.Sum256([]byte(strings.Join(keys, "\n")))
	return hex.EncodeToString(sum[:8])
}

// Extent is what a change of the policy takes in all: of a large one not every Item is stored.
type Extent struct {
	Sum   string // SHA-256 of the rights, in hexadecimal
	Count int    // of rights
}

// measure sets the Extent of what a change of the policy takes. Items are sorted as Split does.
func measure(items []Item) {
	hash, last := sha256.New(), Right{}
	var all Extent
	for _, i := range items {
		if r := i.right(); i.Change != "" && r != last {
			fmt.Fprintf(hash, "%s %s %d\n", r.Source, r.Role, r.User)
			last = r
			all.Count++
		}
	}
	all.Sum = hex.EncodeToString(hash.Sum(nil))
	for n := range items {
		if items[n].Change != "" {
			items[n].All = all
		}
	}
}

// Count returns how many things are held, those that are not stored included.
func Count(items []Item) int {
	n := 0
	for _, s := range Sections(items) {
		n += s.Count()
	}
	return n
}

// Outdated returns the approvals, by Item.Key, of what nobody wants any more: should it come again, it is something new. While
// something can't be judged (untouchable), those stay that may be wanted again for that reason alone: of its sources, of sources that
// are not shown, and of the present change of the policy.
func (e Evidence) Outdated(wanted map[string]bool, untouchable map[authz.SourceID]string) (keys []string) {
	for _, key := range sortedKeys(e.Approved) {
		if !wanted[key] && (len(untouchable) == 0 || !e.mayComeAgain(key, untouchable)) {
			keys = append(keys, key)
		}
	}
	return keys
}

func (e Evidence) mayComeAgain(key string, untouchable map[authz.SourceID]string) bool {
	kind, rest, _ := strings.Cut(key, " ")
	if kind == policyKey {
		return rest == e.change()
	}
	source, _, _ := strings.Cut(rest, " ")
	id, ok := authz.ParseLabel(strings.Replace(source, "/", "-", 1))
	return ok && (untouchable[id] != "" || !e.Snapshot.Contains(id))
}

// Section is a part of what is held that can be approved by itself.
type Section struct {
	Hash  string
	Scope authz.SourceID
	Items []Item
}

// Count returns how many things the part has; Items may be fewer.
func (s Section) Count() int { return max(len(s.Items), s.Items[0].All.Count) }

// inConfiguration is what a change of the policy is called.
const inConfiguration = "the configuration"

// Place names the part for people.
func (s Section) Place() string {
	if s.Scope == (authz.SourceID{}) {
		return inConfiguration
	}
	return s.Scope.String()
}

// Sections divides what is held by top-level group (of namespaces: by person); what a change of the policy takes is one part.
func Sections(held []Item) []Section {
	var out []Section
	for len(held) > 0 {
		n := slices.IndexFunc(held, func(i Item) bool { return i.Scope != held[0].Scope })
		if n < 0 {
			n = len(held)
		}
		out = append(out, Section{HashOf(held[:n]), held[0].Scope, held[:n]})
		held = held[n:]
	}
	return out
}

// ErrNoSuchHash says that nothing that is held has the hash, for instance because it changed meanwhile.
var ErrNoSuchHash = errors.New("nothing that is held now has this hash: look again with plan --held")

// HeldUnder returns what is held under a hash of HashOf: all of it, or a Section.
func HeldUnder(held []Item, hash string) ([]Item, error) {
	if len(held) > 0 && hash == HashOf(held) {
		return held, nil
	}
	for _, s := range Sections(held) {
		if s.Hash == hash {
			return s.Items, nil
		}
	}
	return nil, ErrNoSuchHash
}

// maxShown is how many lines HeldText shows of one section.
const maxShown = 50

// HeldText shows what is held, with what to type to approve it.
func HeldText(held []Item) string {
	if len(held) == 0 {
		return "nothing is held\n"
	}
	var b strings.Builder
	for _, s := range Sections(held) {
		fmt.Fprintf(&b, "%s  %s: %s\n", s.Hash, s.Place(), s.Items[0].Why)
		for n, i := range s.Items {
			if n == maxShown {
				fmt.Fprintf(&b, "    and %d more\n", s.Count()-n)
				break
			}
			who := ""
			switch {
			case i.Role == "":
			case i.User == 0:
				who = ": CI of the namespace"
			default:
				who = fmt.Sprintf(": %s (user/%d) loses %s", cmp.Or(Printable(i.Name), "?"), i.User, i.Role)
			}
			verb := map[bool]string{true: "new namespace for", false: "in"}[i.Role == ""]
			cause := i.Cause.String()
			if i.Change != "" {
				cause = inConfiguration
			}
			fmt.Fprintf(&b, "    %s %s %s%s, because of %s\n", verb, i.Source, Printable(i.Path), who, cause)
		}
	}
	fmt.Fprintf(&b, "held: %d. Approve a part by its hash, or all by %s:  gl-k8s-integrator approve --config FILE HASH\n", Count(held), HashOf(held))
	return b.String()
}
