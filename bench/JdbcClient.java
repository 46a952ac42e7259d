// A client of bench/client_settings.py: makes a query once, or every 100 ms.
// java -cp postgresql.jar:. JdbcClient URL QUERY once|again
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.Statement;

class JdbcClient {
    public static void main(String[] arguments) throws Exception {
        try (Connection connection = DriverManager.getConnection(arguments[0]);
                Statement statement = connection.createStatement()) {
            do {
                statement.execute(arguments[1]);
                Thread.sleep(100);
            } while (arguments[2].equals("again"));
        }
    }
}
