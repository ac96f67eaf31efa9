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

// HashOf names a set of held things by what they are, not by when or why: "sha256" of their keys, shortened.
func HashOf(items []Item) string {
	keys := make([]string, 0, len(items))
	for _, i := range items {
		keys = append(keys, i.Key())
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	sum := sha256.Sum256([]byte(strings.Join(keys, "\n")))
	return hex.EncodeToString(sum[:8])
}

// Section is a part of what is held that can be approved by itself.
type Section struct {
	Hash  string
	Scope authz.SourceID
	Items []Item
}

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
	sections := Sections(held)
	for _, s := range sections {
		fmt.Fprintf(&b, "%s  %s: %s\n", s.Hash, s.Place(), s.Items[0].Why)
		for n, i := range s.Items {
			if n == maxShown {
				fmt.Fprintf(&b, "    and %d more\n", len(s.Items)-n)
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
	fmt.Fprintf(&b, "held: %d. Approve a part by its hash, or all by %s:  gl-k8s-integrator approve --config FILE HASH\n", len(held), HashOf(held))
	return b.String()
}
