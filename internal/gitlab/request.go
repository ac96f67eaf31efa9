package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	gl "gitlab.com/gitlab-org/api/client-go/v2"
)

// get reads path ("groups/7") with the query into out. A connection that breaks inside an answer is tried again,
// which client-go does not do.
func (a *api) get(ctx context.Context, path string, q url.Values, out any) (*gl.Response, error) {
	kind := endpointOf(http.MethodGet, "/api/v4/"+path)
	if s := singleOf(ctx); s != nil {
		s.tries = 0
	}
	for try := 0; ; try++ {
		resp, err := a.getOnce(ctx, kind, path, q, out)
		if err == nil {
			return resp, nil
		}
		cut := errors.Is(err, io.ErrUnexpectedEOF)
		if err = a.late(ctx, "reading "+path, resp, err); try >= a.retries.max {
			return resp, err
		}
		switch s := singleOf(ctx); {
		case cut:
			if err := sleep(ctx, a.retries.pause(try)); err != nil {
				return nil, err
			}
		case s != nil && !s.urgent && limited(err) && ctx.Err() == nil && a.gate.isStopped(kind): // it is not this thing's alone: wait for the turn
		default:
			return resp, err
		}
	}
}

// late explains an error, and knows one that comes of our own deadline for a single thing.
func (a *api) late(ctx context.Context, doing string, resp *gl.Response, err error) error {
	s := singleOf(ctx)
	if s != nil && ctx.Err() != context.Canceled && errors.Is(err, context.DeadlineExceeded) && (!s.urgent || ctx.Err() != nil) {
		return &callError{doing: doing, kind: ErrSlow}
	}
	return a.explain(doing, resp, err)
}

func (a *api) getOnce(ctx context.Context, kind, path string, q url.Values, out any) (*gl.Response, error) {
	if err := a.gate.waitFor(ctx, kind, "/api/v4/"+path); err != nil {
		return nil, err
	}
	ctx, end := begin(ctx)
	defer end()
	req, err := a.client.NewRequest(http.MethodGet, path, nil, []gl.RequestOptionFunc{gl.WithContext(ctx)})
	if err != nil {
		return nil, err
	}
	req.URL.RawQuery = q.Encode()
	return a.client.Do(req, out)
}

// query sends a GraphQL query. Any entry in "errors" makes the answer a failed one, also beside partial data.
func (a *api) query(ctx context.Context, text string, vars map[string]any) (map[string]json.RawMessage, error) {
	if s := singleOf(ctx); s != nil {
		s.tries = 0
	}
	for try := 0; ; try++ {
		var out struct {
			Data   map[string]json.RawMessage `json:"data"`
			Errors graphQLErrors              `json:"errors"`
		}
		if err := a.gate.wait(ctx, "graphql"); err != nil {
			return nil, a.late(ctx, "querying GraphQL", nil, err)
		}
		sent, end := begin(ctx)
		resp, err := a.client.GraphQL.Do(gl.GraphQLQuery{Query: text, Variables: vars}, &out,
			gl.WithContext(sent), gl.WithRequestRetry(a.retries.query))
		end()
		if err == nil && len(out.Errors) > 0 {
			err = out.Errors
		}
		if err == nil && out.Data == nil {
			err = errNoData
		}
		if err == nil {
			return out.Data, nil
		}
		if try >= a.retries.max || !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, a.late(ctx, "querying GraphQL", resp, err)
		}
		if err := sleep(ctx, a.retries.pause(try)); err != nil {
			return nil, err
		}
	}
}

var errNoData = errors.New("the answer has neither data nor errors")

// graphQLErrors are the errors of an answer with HTTP status 200. Their text is GitLab's.
type graphQLErrors []struct {
	Message    string `json:"message"`
	Extensions struct {
		Code string `json:"code"`
	} `json:"extensions"`
}

func (e graphQLErrors) Error() string {
	text := make([]string, 0, 3)
	for _, one := range e[:min(len(e), 3)] {
		text = append(text, shorten(one.Message))
	}
	return "GraphQL: " + strings.Join(text, "; ")
}

// schema reports whether the query asked for something this server does not have.
func (e graphQLErrors) schema() bool {
	for _, one := range e {
		switch one.Extensions.Code {
		case "undefinedField", "undefinedType", "argumentNotAccepted":
			return true
		}
		for _, s := range []string{"doesn't exist on type", "Cannot query field", "doesn't accept argument", "Unknown argument", "isn't a defined input type"} {
			if strings.Contains(one.Message, s) {
				return true
			}
		}
	}
	return false
}

// do sends a request with a JSON body that client-go has no maintained method for, and reads the answer into out.
// secrets are blotted out of errors.
func (a *api) do(ctx context.Context, doing, method, path string, q url.Values, body, out any, secrets ...string) error {
	if err := a.gate.wait(ctx, endpointOf(method, "/api/v4/"+path)); err != nil {
		return err
	}
	req, err := a.client.NewRequest(method, path, body, []gl.RequestOptionFunc{gl.WithContext(ctx)})
	if err != nil {
		return fmt.Errorf("%s: making the request failed", doing) // client-go's text may quote the body
	}
	if len(q) > 0 {
		req.URL.RawQuery = q.Encode()
	}
	resp, err := a.client.Do(req, out)
	if err = a.explain(doing, resp, err); err == nil {
		return nil
	}
	e, ok := errors.AsType[*callError](err)
	if !ok {
		return fmt.Errorf("%s: failed", doing)
	}
	blotted := *e
	blotted.doing = doing
	for _, s := range secrets {
		if len(s) >= 4 {
			blotted.detail = strings.ReplaceAll(blotted.detail, s, "[secret]")
		}
	}
	return &blotted
}
