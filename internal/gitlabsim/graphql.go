package gitlabsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/validator"
	"github.com/vektah/gqlparser/v2/validator/rules"
)

// maxGraphQLBody bounds a request: the query text has its own limit, variables do not count towards that.
const maxGraphQLBody = 1 << 20

// newGraphQLHandler serves POST /api/graphql. Options.Version decides which fields there are: a GitLab before 18 has a Group
// without archived, sharedGroups and markedForDeletion.
func newGraphQLHandler(s *Server) http.Handler {
	e, err := newGraphQLEndpoint(s.World(), s.opts.Version, s.URL, s.authenticate)
	if err != nil { // the schema is part of the program: only its author can see this
		return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			refuseGraphQL(rw, http.StatusInternalServerError, err.Error())
		})
	}
	return e
}

// WithoutGraphQL is the fault of a GitLab whose GraphQL endpoint can't be reached, e.g. behind a proxy that lets only REST
// through: clients have to fall back.
func WithoutGraphQL() FaultRule {
	return FaultRule{PathPrefix: "/api/graphql", Status: http.StatusNotFound, Body: `{"error":"404 Not Found"}`}
}

// graphQLEndpoint reads the model and changes nothing.
type graphQLEndpoint struct {
	world        *World
	version      string
	url          func() string
	authenticate func(*http.Request) (*User, []string, error) // a nil user is anonymous
	schema       *ast.Schema
}

func newGraphQLEndpoint(world *World, version string, url func() string, authenticate func(*http.Request) (*User, []string, error)) (*graphQLEndpoint, error) {
	schema, err := loadGraphQLSchema(version)
	if err != nil {
		return nil, err
	}
	return &graphQLEndpoint{world: world, version: version, url: url, authenticate: authenticate, schema: schema}, nil
}

type graphQLRequest struct {
	Query         string          `json:"query"`
	OperationName string          `json:"operationName"`
	Variables     json.RawMessage `json:"variables"`
}

type graphQLResponse struct {
	Data   any           `json:"data,omitempty"`
	Errors gqlerror.List `json:"errors,omitempty"`

	hasData bool
}

// MarshalJSON writes data: null for a query that ran and came to nothing, and no data at all for one that did not run.
func (r graphQLResponse) MarshalJSON() ([]byte, error) {
	o := &orderedObject{}
	if r.hasData {
		o.keys, o.values = append(o.keys, "data"), append(o.values, r.Data)
	}
	if len(r.Errors) > 0 {
		o.keys, o.values = append(o.keys, "errors"), append(o.values, r.Errors)
	}
	return o.MarshalJSON()
}

func (e *graphQLEndpoint) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	user, scopes, err := e.authenticate(r)
	var refusal *Error
	if errors.As(err, &refusal) && refusal.Status == http.StatusForbidden {
		refuseGraphQL(rw, http.StatusForbidden, "API not accessible for user")
		return
	}
	if err != nil || user != nil && !slices.Contains(scopes, "api") && !slices.Contains(scopes, "read_api") {
		refuseGraphQL(rw, http.StatusUnauthorized, "Invalid token")
		return
	}
	r.Body = http.MaxBytesReader(rw, r.Body, maxGraphQLBody)
	requests, batch, err := decodeGraphQL(r)
	if err != nil {
		refuseGraphQL(rw, http.StatusUnprocessableEntity, err.Error())
		return
	}
	size := 0
	for _, q := range requests {
		size += utf8.RuneCountInString(q.Query)
	}
	if size > maxQuerySize {
		refuseGraphQL(rw, http.StatusUnprocessableEntity, "Query too large")
		return
	}
	blocked := false
	var responses []any
	e.world.View(func(v *View) {
		w := &graphQLWorld{v: v, url: e.url(), version: e.version}
		if user != nil {
			if w.user = v.User(user.ID); w.user == nil || w.user.State != StateActive {
				blocked = true
				return
			}
		}
		responses = e.run(w, requests)
	})
	if blocked {
		refuseGraphQL(rw, http.StatusForbidden, "API not accessible for user")
		return
	}
	if batch {
		respondGraphQL(rw, http.StatusOK, responses)
		return
	}
	respondGraphQL(rw, http.StatusOK, responses[0])
}

func refuseGraphQL(rw http.ResponseWriter, status int, message string) {
	respondGraphQL(rw, status, map[string]any{"errors": []map[string]any{{"message": message}}})
}

func respondGraphQL(rw http.ResponseWriter, status int, body any) {
	raw, err := json.Marshal(body)
	if err != nil {
		http.Error(rw, `{"errors":[{"message":"Internal server error"}]}`, http.StatusInternalServerError)
		return
	}
	rw.Header().Set("Content-Type", "application/json; charset=utf-8")
	rw.WriteHeader(status)
	_, _ = rw.Write(raw) // the client went away: nobody to tell
}

// decodeGraphQL reads one query or a multiplexed batch of them.
func decodeGraphQL(r *http.Request) (requests []graphQLRequest, batch bool, err error) {
	var raw json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&raw); err != nil {
		return nil, false, errors.New("There was a problem in the JSON you submitted") //nolint:staticcheck // GitLab's wording
	}
	raw = bytes.TrimSpace(raw)
	if batch = bytes.HasPrefix(raw, []byte("[")); batch {
		err = json.Unmarshal(raw, &requests)
	} else {
		requests = make([]graphQLRequest, 1)
		err = json.Unmarshal(raw, &requests[0])
	}
	if err != nil {
		return nil, false, fmt.Errorf("Unexpected parameter: %w", err) //nolint:staticcheck // GitLab's wording
	}
	if len(requests) == 0 { // Rails drops an empty array: what is left is a request without a query
		return make([]graphQLRequest, 1), false, nil
	}
	return requests, batch, nil
}

// prepared is one query of a batch between validation and execution.
type prepared struct {
	x    *execution
	op   *ast.OperationDefinition
	errs gqlerror.List
}

// run judges all queries of a request before the first one is executed, because they share one complexity budget.
func (e *graphQLEndpoint) run(w *graphQLWorld, requests []graphQLRequest) []any {
	limit := complexityAnonymous
	switch {
	case w.admin():
		limit = complexityAdmin
	case w.user != nil:
		limit = complexityUser
	}
	queries := make([]prepared, len(requests))
	total := 0
	for i, r := range requests {
		p := gqlPrepare(e.schema, r)
		if p.errs == nil {
			a := &analysis{schema: e.schema, vars: p.x.vars}
			p.errs = a.refuse(p.op, w.user == nil)
			p.x.world, p.x.limit = w, limit
			p.x.score = a.complexity(p.op)
			total += p.x.score
		}
		queries[i] = p
	}
	responses := make([]any, len(requests))
	for i, p := range queries {
		if total > limit {
			p.errs = append(p.errs, gqlerror.Errorf("Query has complexity of %d, which exceeds max complexity of %d", total, limit))
		}
		if len(p.errs) > 0 {
			responses[i] = graphQLResponse{Errors: p.errs}
			continue
		}
		data, ok := p.x.object(gqlQuery{w}, []ast.SelectionSet{p.op.SelectionSet}, nil)
		if !ok {
			data = nil
		}
		responses[i] = graphQLResponse{Data: data, Errors: p.x.errs, hasData: true}
	}
	return responses
}

func gqlPrepare(schema *ast.Schema, r graphQLRequest) prepared {
	if strings.TrimSpace(r.Query) == "" {
		return prepared{errs: gqlerror.List{gqlerror.Errorf("No query string was present")}}
	}
	doc, errs := gqlparser.LoadQueryWithRules(schema, r.Query, rules.NewDefaultRules())
	if len(errs) > 0 {
		return prepared{errs: inGitLabsWords(errs)}
	}
	var op *ast.OperationDefinition
	switch {
	case r.OperationName != "":
		op = doc.Operations.ForName(r.OperationName)
	case len(doc.Operations) == 1:
		op = doc.Operations[0]
	}
	if op == nil {
		return prepared{errs: gqlerror.List{gqlerror.Errorf("An operation name is required")}}
	}
	given, err := decodeVariables(r.Variables)
	if err != nil {
		return prepared{errs: gqlerror.List{gqlerror.Errorf("%s", err)}}
	}
	vars, err := validator.VariableValues(schema, op, given)
	if err != nil {
		return prepared{errs: gqlerror.List{gqlerror.Wrap(err)}}
	}
	return prepared{op: op, x: &execution{schema: schema, vars: vars, calls: map[string]int{}}}
}

// decodeVariables accepts an object or, as GitLab does, the same as text in a JSON string.
func decodeVariables(raw json.RawMessage) (map[string]any, error) {
	raw = bytes.TrimSpace(raw)
	var text string
	if bytes.HasPrefix(raw, []byte(`"`)) {
		if err := json.Unmarshal(raw, &text); err != nil {
			return nil, err
		}
		raw = []byte(text)
	}
	if len(raw) == 0 {
		return nil, nil
	}
	var vars map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&vars); err != nil {
		return nil, errors.New("Invalid JSON in variables") //nolint:staticcheck // GitLab's wording
	}
	return vars, nil
}

// inGitLabsWords replaces the validator's wording for the errors that a client tells apart.
func inGitLabsWords(errs gqlerror.List) gqlerror.List {
	out := make(gqlerror.List, 0, len(errs))
	for _, e := range errs {
		g := &gqlerror.Error{Message: e.Message, Locations: e.Locations}
		var field, typ string
		if strings.HasPrefix(e.Rule, "FieldsOnCorrectType") {
			if n, _ := fmt.Sscanf(e.Message, "Cannot query field %q on type %q", &field, &typ); n == 2 {
				g.Message = fmt.Sprintf("Field '%s' doesn't exist on type '%s'", field, typ)
				g.Extensions = map[string]any{"code": "undefinedField", "typeName": typ, "fieldName": field}
			}
		}
		out = append(out, g)
	}
	return out
}
