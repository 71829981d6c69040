// Package v20170312 has the names of a cloud's client that one of flannel's backends is compiled with. Its
// own module is large and serves that cloud alone; here each call fails.
package v20170312

import "errors"

var errAbsent = errors.New("this build has no client for that cloud")

type Client struct{}

type Filter struct {
	Name   *string
	Values []*string
}

type Route struct {
	RouteId                                                 *uint64
	DestinationCidrBlock, GatewayId, GatewayType, RouteType *string
	Enabled                                                 *bool
}

type RouteTable struct {
	RouteTableId *string
	RouteSet     []*Route
}

type Request struct {
	RouteTableId *string
	Filters      []*Filter
	Routes       []*Route
}

type Response struct {
	Response struct{ RouteTableSet []*RouteTable }
}

func NewClientWithSecretId(string, string, string) (*Client, error) { return nil, errAbsent }
func NewDescribeRouteTablesRequest() *Request                       { return new(Request) }
func NewDeleteRoutesRequest() *Request                              { return new(Request) }
func NewCreateRoutesRequest() *Request                              { return new(Request) }
func (*Client) DescribeRouteTables(*Request) (*Response, error)     { return nil, errAbsent }
func (*Client) DeleteRoutes(*Request) (*Response, error)            { return nil, errAbsent }
func (*Client) CreateRoutes(*Request) (*Response, error)            { return nil, errAbsent }
