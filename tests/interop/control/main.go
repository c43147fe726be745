// A control plane made of Envoy's own go-control-plane: a snapshot cache behind ADS. It serves what it
// is told on standard input, a JSON object a line, and says on standard output what it has set and what
// clients ask, take and refuse. It ends when its input does.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	manager "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

const table = "routes"

// What is to be served.
type world struct {
	Version string `json:"version"`
	// Where the one listener is, as HOST:PORT; none without it.
	Listener string `json:"listener"`
	// Endpoints of each cluster, as HOST:PORT.
	Clusters map[string][]string `json:"clusters"`
	// Prefix and cluster, the first that fits counts.
	Routes [][2]string `json:"routes"`
}

func main() {
	address := flag.String("address", "127.0.0.1:0", "where to listen")
	node := flag.String("node", "", "id of the node that is served")
	flag.Parse()
	if err := run(*address, *node); err != nil {
		log.Fatal(err)
	}
}

func run(address, node string) error {
	snapshots := cache.NewSnapshotCache(true, cache.IDHash{}, nil)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	socket, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	out := &lines{}
	callbacks := server.CallbackFuncs{
		StreamRequestFunc: func(stream int64, request *discovery.DiscoveryRequest) error {
			kind := request.TypeUrl[strings.LastIndex(request.TypeUrl, ".")+1:]
			what := "ask"
			if request.ErrorDetail != nil {
				what = "nack"
			} else if request.ResponseNonce != "" {
				what = "ack"
			}
			out.say("%s %d %s %q %s", what, stream, kind, request.VersionInfo, request.ErrorDetail.GetMessage())
			return nil
		},
	}
	served := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(served, server.NewServer(ctx, snapshots, callbacks))
	go func() { log.Fatal(served.Serve(socket)) }()
	out.say("listening %s", socket.Addr())

	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		var told world
		if err := json.Unmarshal(input.Bytes(), &told); err != nil {
			return err
		}
		snapshot, err := told.snapshot()
		if err != nil {
			return err
		}
		if err := snapshots.SetSnapshot(ctx, node, snapshot); err != nil {
			return err
		}
		out.say("set %s", told.Version)
	}
	return input.Err()
}

// Lines on standard output, whole ones.
type lines struct{ mutex sync.Mutex }

func (l *lines) say(format string, values ...any) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	fmt.Printf(format+"\n", values...)
}

func (w world) snapshot() (*cache.Snapshot, error) {
	var clusters, endpoints []types.Resource
	for name, members := range w.Clusters {
		clusters = append(clusters, &cluster.Cluster{
			Name:                 name,
			ConnectTimeout:       durationpb.New(time.Second),
			ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
			EdsClusterConfig:     &cluster.Cluster_EdsClusterConfig{EdsConfig: ads()},
		})
		found := &endpoint.ClusterLoadAssignment{ClusterName: name}
		place := &endpoint.LocalityLbEndpoints{}
		for _, member := range members {
			at, err := socketAddress(member)
			if err != nil {
				return nil, err
			}
			place.LbEndpoints = append(place.LbEndpoints, &endpoint.LbEndpoint{
				HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: at}},
			})
		}
		found.Endpoints = append(found.Endpoints, place)
		endpoints = append(endpoints, found)
	}
	var listeners, tables []types.Resource
	if w.Listener != "" {
		found, err := w.listener()
		if err != nil {
			return nil, err
		}
		listeners, tables = append(listeners, found), append(tables, w.routes())
	}
	snapshot, err := cache.NewSnapshot(w.Version, map[resource.Type][]types.Resource{
		resource.ClusterType:  clusters,
		resource.EndpointType: endpoints,
		resource.ListenerType: listeners,
		resource.RouteType:    tables,
	})
	if err != nil {
		return nil, err
	}
	return snapshot, snapshot.Consistent()
}

func (w world) routes() *route.RouteConfiguration {
	host := &route.VirtualHost{Name: "all", Domains: []string{"*"}}
	for _, pair := range w.Routes {
		host.Routes = append(host.Routes, &route.Route{
			Match: &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: pair[0]}},
			Action: &route.Route_Route{Route: &route.RouteAction{
				ClusterSpecifier: &route.RouteAction_Cluster{Cluster: pair[1]},
			}},
		})
	}
	return &route.RouteConfiguration{Name: table, VirtualHosts: []*route.VirtualHost{host}}
}

func (w world) listener() (*listener.Listener, error) {
	at, err := socketAddress(w.Listener)
	if err != nil {
		return nil, err
	}
	filter, err := packed(&router.Router{})
	if err != nil {
		return nil, err
	}
	managed, err := packed(&manager.HttpConnectionManager{
		StatPrefix: "http",
		RouteSpecifier: &manager.HttpConnectionManager_Rds{
			Rds: &manager.Rds{ConfigSource: ads(), RouteConfigName: table},
		},
		HttpFilters: []*manager.HttpFilter{{
			Name:       "envoy.filters.http.router",
			ConfigType: &manager.HttpFilter_TypedConfig{TypedConfig: filter},
		}},
	})
	if err != nil {
		return nil, err
	}
	return &listener.Listener{
		Name:    "http",
		Address: at,
		FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listener.Filter_TypedConfig{TypedConfig: managed},
		}}}},
	}, nil
}

func packed(message proto.Message) (*anypb.Any, error) {
	return anypb.New(message)
}

func ads() *core.ConfigSource {
	return &core.ConfigSource{
		ResourceApiVersion:    core.ApiVersion_V3,
		ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
	}
}

func socketAddress(text string) (*core.Address, error) {
	at, err := net.ResolveTCPAddr("tcp", text)
	if err != nil {
		return nil, err
	}
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address:       at.IP.String(),
		PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(at.Port)},
	}}}, nil
}
