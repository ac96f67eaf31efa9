package kubectlgitlab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

func namespacesCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "namespaces [-o wide|name|json]",
		Aliases:           []string{"ns"},
		Short:             "Your namespaces: your role, the path in GitLab, why you have it, and whether it is in the cluster",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	output := cmd.Flags().StringP("output", "o", "", "wide, name or json")
	if err := cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"wide", "name", "json"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // only for a flag that does not exist
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !slices.Contains([]string{"", "wide", "name", "json"}, *output) {
			return fmt.Errorf("--output: want wide, name or json, not %q", *output)
		}
		s, err := o.open("")
		if err != nil {
			return err
		}
		mine, err := s.namespaces(cmd.Context())
		if err != nil {
			return err
		}
		return printNamespaces(s, mine, *output)
	}
	return cmd
}

// namespaces asks our server, or else finds out what the cluster says.
func (s *session) namespaces(ctx context.Context) (webapi.MyNamespaces, error) {
	var mine webapi.MyNamespaces
	if s.askServer(ctx, webapi.PathMyNamespaces, nil, &mine) {
		return mine, nil
	}
	rows, err := s.namespacesByCluster(ctx)
	return webapi.MyNamespaces{Namespaces: rows, Total: len(rows), AsOf: s.o.process.Now()}, err
}

func printNamespaces(s *session, mine webapi.MyNamespaces, output string) error {
	out := s.o.process.Out
	switch output {
	case "json":
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(mine)
	case "name":
		for _, n := range mine.Namespaces {
			fmt.Fprintln(out, "namespace/"+n.Name)
		}
		return nil
	}
	if len(mine.Namespaces) == 0 {
		s.o.note("you have no namespaces in cluster %s", s.context.Cluster)
		return nil
	}
	head := []string{" ", "NAMESPACE", "ROLE", "PATH", "STATE"}
	if output == "wide" {
		head = append(head, "UNTIL", "REASON", "CI")
	}
	rows := [][]string{head}
	for _, n := range mine.Namespaces {
		mark := " "
		if n.Name == s.namespace {
			mark = "*"
		}
		row := []string{mark, n.Name, strings.Join(n.Roles, ","), n.Path, state(n)}
		if output == "wide" {
			row = append(row, day(n.Until), n.Reason, ciState(n.CI))
		}
		rows = append(rows, row)
	}
	return table(out, rows)
}

// state says whether somebody's roles are in the cluster.
func state(n webapi.Namespace) string {
	if n.State == "" && len(n.Lacks) > 0 {
		return "ready, but not yet " + strings.Join(n.Lacks, ", ")
	}
	return cmp.Or(n.Why, n.State, "ready")
}

// ciState is the state of a project's CI in a few words.
func ciState(c *webapi.CI) string {
	switch {
	case c == nil:
		return ""
	case c.Good != nil:
		return c.Delivery + ", good until " + day(c.Good)
	}
	return strings.TrimSpace(c.Delivery + " " + c.Outcome)
}

// namespace is what is read of a Namespace.
type namespace struct {
	Metadata struct {
		Name        string            `json:"name"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
}

// fill adds what the marks of a namespace say.
func (n namespace) fill(row *webapi.Namespace) {
	row.Path = n.Metadata.Annotations[kubename.AnnotationPath]
	row.Source = strings.Replace(n.Metadata.Labels[kubename.LabelSource], "-", "/", 1) // as our server writes it
}

// namespacesByCluster finds namespaces without our server: all of GitLab's for who may list them; those that our webhook
// names in its refusal; or those of the kubeconfig.
func (s *session) namespacesByCluster(ctx context.Context) ([]webapi.Namespace, error) { // never nil
	var all struct {
		Items []namespace `json:"items"`
	}
	query := url.Values{"labelSelector": {kubename.LabelManagedBy + "=" + kubename.ManagedBy}}
	err := s.get(ctx, "api/v1/namespaces", query, &all)
	var refused *refusal
	switch {
	case err == nil:
		s.o.note("note: you may list all namespaces; these are those made from GitLab")
		rows := make([]webapi.Namespace, len(all.Items))
		for i, n := range all.Items {
			rows[i].Name = n.Metadata.Name
			n.fill(&rows[i])
		}
		return rows, nil
	case !errors.As(err, &refused) || refused.status == http.StatusUnauthorized:
		return nil, s.clusterFault("for your namespaces", err)
	}
	rows, more, said := readYours(refused.message)
	if !said {
		s.o.note("note: this cluster does not say which namespaces are yours; these are those of your kubeconfig (%s)", refused)
		for _, name := range contextNamespaces(s) {
			rows = append(rows, webapi.Namespace{Name: name})
		}
	}
	if more != "" {
		s.o.note("note: %s", more)
	}
	s.readMarks(ctx, rows)
	return rows, nil
}

// readMarks reads the namespaces themselves, as far as the person may.
func (s *session) readMarks(ctx context.Context, rows []webapi.Namespace) {
	var reading sync.WaitGroup
	turns := make(chan struct{}, 8)
	for i := range rows {
		reading.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			var n namespace
			if s.get(ctx, "api/v1/namespaces/"+rows[i].Name, nil, &n) == nil { // else there is just less to show
				n.fill(&rows[i])
			}
		})
	}
	reading.Wait()
}

// What a refused list of namespaces says (authz, refusal.yours).
var (
	yours     = regexp.MustCompile(`Your namespaces(?:, if they are in the cluster already)?: `)
	yoursOf   = regexp.MustCompile(`^((?:[a-z0-9-]+, )*[a-z0-9-]+) \(([^()]+)\)(?:; )?`)
	yoursNone = regexp.MustCompile(`You have no namespaces .*$`)
)

// readYours reads the namespaces that our webhook names in a refusal, and returns the rest of what it says. said is false
// if it is not our webhook that speaks.
func readYours(message string) (rows []webapi.Namespace, rest string, said bool) {
	if none := yoursNone.FindString(message); none != "" {
		return nil, none, true
	}
	at := yours.FindStringIndex(message)
	if at == nil {
		return nil, "", false
	}
	rest = message[at[1]:]
	for m := yoursOf.FindStringSubmatch(rest); m != nil; m = yoursOf.FindStringSubmatch(rest) {
		for name := range strings.SplitSeq(m[1], ", ") {
			rows = append(rows, webapi.Namespace{Name: name, Roles: []string{m[2]}})
		}
		rest = rest[len(m[0]):]
	}
	slices.SortFunc(rows, func(a, b webapi.Namespace) int { return strings.Compare(a.Name, b.Name) })
	return rows, strings.TrimSpace(strings.TrimPrefix(rest, ".")), true
}

// contextNamespaces are the namespaces of the contexts that lead to the same cluster as the same user, sorted.
func contextNamespaces(s *session) (names []string) {
	for _, c := range s.raw.Contexts {
		if c.Cluster == s.context.Cluster && c.AuthInfo == s.context.AuthInfo && c.Namespace != "" {
			names = append(names, c.Namespace)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
