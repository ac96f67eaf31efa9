package deploy_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

var update = flag.Bool("update", false, "write the generated part of manifests/40-own-cage.yaml anew")

// TestCageReservesTheNames: the cage's rule on new namespaces is the one by which names are given.
func TestCageReservesTheNames(t *testing.T) {
	const file, begin, end = "manifests/40-own-cage.yaml", "-update\n", "    # END GENERATED"
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := strings.Cut(string(content), begin)
	_, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no generated part", file)
	}
	want := head + begin + reservedRule() + end + tail
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(content) != want {
		t.Errorf("%s does not agree with authz.Reserved: go test ./deploy -run TestCageReservesTheNames -update", file)
	}
}

// reservedRule writes authz.Reserved as a validation of the cage.
func reservedRule() string {
	names, expression := authz.ReservedExpression()
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, "        "+format+"\n", args...) }
	b.WriteString("    - expression: >-\n")
	line("variables.resource != '/namespaces' || request.operation != 'CREATE' ||")
	line("!(variables.name.matches('%s') ||", expression)
	row := "variables.name in ["
	for i, n := range names {
		item := "'" + n + "', "
		if i == len(names)-1 {
			item = "'" + n + "'])"
		}
		if len(row)+len(item) > 112 {
			line("%s", strings.TrimRight(row, " "))
			row = ""
		}
		row += item
	}
	line("%s", row)
	b.WriteString("      reason: Forbidden\n      message: >-\n")
	line("gl-k8s-integrator makes no namespace with a name that means something to others: a top-level domain, or a name of")
	line("the cluster's DNS or software")
	return b.String()
}
